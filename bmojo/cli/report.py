"""`bmojo report`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bmojo.cli.common import argument, option
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.evaluation.collect import Run

REPORT_EXIT_CODES = """\b
Exit codes:
  0         the report is written
  2         there are no finished runs, or a file cannot be read; the error names it"""


def report(
    runs: Annotated[list[Path], argument("RUN...", "Run directories, or folders of them.")],
    out: Annotated[Path, option("DIR", "The folder of the report.")] = Path("report"),
) -> None:
    """Compare finished runs in tables and figures, pooled over seeds.

    Runs whose configs differ in Trainer.seed only are one cell: mean, lowest, highest. DIR gets
    report.md, cells.csv, accuracy.csv, runs.csv, and figures of accuracy, loss, memory,
    learning and, where bmojo eval has measured it, length of context.

    \b
    Examples:
      bmojo report runs/mqar --out docs/results/mqar
      bmojo report runs/bmojo-seed0 runs/swa-seed0
    """
    from bmojo.evaluation.collect import collect
    from bmojo.evaluation.report import write

    found = collect(runs)
    text = write(found, out, tasks(found))
    typer.echo(text.partition("\n## Figures")[0])
    typer.echo("\n".join(map(str, sorted(out.glob("*")))))


def tasks(runs: Iterable["Run"]) -> dict[str, tuple[str, float | None]]:
    """Of each evaluation: the quantity that its groups count, and its level of chance.

    Configs that no longer load are left out, and so are levels that differ between runs.
    """
    from bmojo.experiment import load

    known: dict[str, tuple[str, float | None]] = {}
    seen = set()
    for run in runs:
        missing = {row["evaluation"] for row in (run.summary or {}).get("evaluations", [])}
        lines = tuple(v for k, v in run.bindings.items() if k not in ("Trainer.seed",))
        if not missing or lines in seen:
            continue
        seen.add(lines)
        try:
            experiment, _ = load(run.path / "config.gin")
        except UserError:
            continue
        for evaluation in experiment.evaluations:
            data = evaluation.data
            fact = (getattr(data, "slices", None) or "group", getattr(data, "chance", None))
            counted, chance = known.setdefault(evaluation.name, fact)
            if fact != (counted, chance):
                known[evaluation.name] = (counted, chance if fact[1] == chance else None)
    return known
