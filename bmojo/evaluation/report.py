"""A report on runs: tables and figures in one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bmojo.errors import UserError
from bmojo.evaluation import tables
from bmojo.evaluation.bindings import distinguishing
from bmojo.evaluation.collect import Cell, Run, evaluations_of, pool, without_seed
from bmojo.evaluation.figures import draw
from bmojo.files import write_atomically


def write(
    runs: Sequence[Run], out: Path, tasks: Mapping[str, tuple[str, float | None]] | None = None
) -> str:
    """Write ``report.md``, ``cells.csv``, ``accuracy.csv``, ``runs.csv`` and the figures.

    Unfinished runs are listed only; files of a former report in the folder ``out`` are replaced.
    ``tasks`` has by evaluation the quantity that its groups count and the level of chance.

    Returns:
      The text of ``report.md``.

    Raises:
      UserError: none of the runs is finished, or the folder cannot be written.
    """
    cells = pool(runs)
    left = tables.unfinished(runs)
    if not cells:
        raise UserError(
            f"none of the {len(runs)} runs is finished; let them finish with bmojo train"
        )
    names = ("cells.csv", "accuracy.csv", "runs.csv", "report.md")
    if (there := [name for name in names if (out / name).exists()]) and len(there) < len(names):
        raise UserError(
            f"{out / there[0]}: is there already, without a whole report; move it away, or choose "
            "another folder with --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = draw(cells, out, tasks or {})
        text = _markdown(cells, runs, left, figures, tasks or {})
        for name, content in {
            "cells.csv": tables.cells_csv(cells),
            "accuracy.csv": tables.accuracy_csv(cells),
            "runs.csv": tables.runs_csv(cells),
            "report.md": text,
        }.items():
            write_atomically(out / name, content)
    except OSError as error:
        raise UserError(
            f"{out}: the report cannot be written ({error.strerror}); choose another --out"
        ) from error
    return text


def _markdown(
    cells: Sequence[Cell],
    runs: Sequence[Run],
    left: str,
    figures: Sequence[Path],
    tasks: Mapping[str, tuple[str, float | None]],
) -> str:
    finished = sum(run.summary is not None for run in runs)
    pooled = sum(len(cell.runs) for cell in cells)
    parts = [
        "# Report",
        f"{len(cells)} cells of {pooled} finished runs. Means over seeds; in brackets the lowest "
        "and the highest. Memory is that of one sequence of the longest training length.",
        tables.cells_table(cells),
    ]
    for evaluation in evaluations_of(cells):
        counted, chance = tasks.get(evaluation, ("group", None))
        head = f"## Accuracy: {evaluation}, by {counted.replace('_', ' ')}"
        if chance is not None:
            head += f" (chance {chance:.2g})"
        parts += [head, tables.accuracy_table(cells, evaluation)]
    parts += ["## Figures", *(f"![{path.stem}]({path.name})" for path in figures)]
    if len(cells) > 1:
        parts += ["## Differences between the cells", _differences(cells)]
    if finished > pooled:
        parts.append(f"{finished - pooled} finished runs repeat another's config and seed.")
    if left:
        parts += ["## Not finished, and not counted", left]
    return "\n\n".join([*parts, "## Made with", _provenance(cells)]) + "\n"


def _differences(cells: Sequence[Cell]) -> str:
    configs = [without_seed(cell.runs[0].bindings) for cell in cells]
    keys = distinguishing(configs)
    lines = []
    for cell, config in zip(cells, configs, strict=True):
        values = ", ".join(f"`{key} = {config[key]}`" for key in keys if key in config)
        lines.append(f"- {cell.label}: {values}")
    return "\n".join(lines)


def _provenance(cells: Sequence[Cell]) -> str:
    summaries = [run.summary or {} for cell in cells for run in cell.runs]
    lines = []
    for name in ("git_revision", "device"):
        values = sorted({str(s[name]) for s in summaries if s.get(name)})
        if values:
            lines.append(f"- {name.replace('_', ' ')}: {', '.join(values)}")
    commands = {summary["command"] for summary in summaries if "command" in summary}
    return "\n".join([*lines, *(f"- `{command}`" for command in sorted(commands))])
