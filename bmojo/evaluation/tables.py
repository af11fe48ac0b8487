"""Tables of a report: Markdown to read, CSV to compute with."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bmojo.console import markdown_table
from bmojo.evaluation.collect import Cell, Run, Spread, evaluations_of, spread

Number = Callable[[Run], float | None]

WHOLE, DECIMALS = "{:,.0f}", "{:.3f}"
MEASURES = ("accuracy", "loss", "bits_per_byte")


def cells_table(cells: Sequence[Cell]) -> str:
    """A Markdown table: a line for each cell, means over seeds, lowest–highest in brackets."""
    columns = _columns(cells)
    lines = [
        [cell.label, str(len(cell.runs))]
        + [_shown(spread(cell.runs, number), form) for _, number, form in columns.values()]
        for cell in cells
    ]
    return markdown_table(["cell", "seeds", *(name for name, _, _ in columns.values())], lines)


def accuracy_table(cells: Sequence[Cell], evaluation: str) -> str:
    """A Markdown table of an evaluation's accuracy by group, as ``cells_table``."""
    have = [cell for cell in cells if evaluation in evaluations_of([cell])]
    groups = sorted({group for cell in have for group in cell.groups(evaluation)})
    numbers = [_measured(evaluation, group, "accuracy") for group in [*groups, None]]
    lines = [
        [cell.label, str(len(cell.runs))]
        + [_shown(spread(cell.runs, number), DECIMALS) for number in numbers]
        for cell in have
    ]
    return markdown_table(["cell", "seeds", *map(str, groups), "all"], lines)


def unfinished(runs: Sequence[Run]) -> str:
    """A Markdown list of the runs that are not finished; empty if all are."""
    return "\n".join(
        f"- {run.path.name}: after step {run.metrics[-1]['step'] if run.metrics else 0}"
        for run in runs
        if run.summary is None
    )


def cells_csv(cells: Sequence[Cell]) -> str:
    """A line for each cell; for each number its mean, lowest and highest over seeds."""
    columns = _columns(cells)
    return _csv(
        {"cell": cell.label, "seeds": len(cell.runs)}
        | _spreads({name: spread(cell.runs, column[1]) for name, column in columns.items()})
        for cell in cells
    )


def accuracy_csv(cells: Sequence[Cell]) -> str:
    """A line for each cell, evaluation and group ('all' over all groups)."""
    rows = []
    for cell in cells:
        for name in evaluations_of([cell]):
            for group in [*cell.groups(name), None]:
                row: dict[str, Any] = {"cell": cell.label, "evaluation": name}
                row |= {"group": "all" if group is None else group, "seeds": len(cell.runs)}
                found = {m: spread(cell.runs, _measured(name, group, m)) for m in MEASURES}
                rows.append(row | _spreads(found))
    return _csv(rows)


def runs_csv(cells: Sequence[Cell]) -> str:
    """A line for each finished run."""
    columns = _columns(cells)
    return _csv(
        {"cell": cell.label, "run": str(run.path), "seed": run.seed}
        | {name: number(run) for name, (_, number, _) in columns.items()}
        | {"git_revision": (run.summary or {}).get("git_revision")}
        for cell in cells
        for run in cell.runs
    )


def _columns(cells: Sequence[Cell]) -> dict[str, tuple[str, Number, str]]:
    """Name in CSV -> heading, number and format of each column that any cell fills."""

    def field(heading: str, name: str) -> tuple[str, Number, str]:
        return heading, lambda run: run.number(name), WHOLE

    columns = {
        "parameters": field("parameters", "parameters"),
        "state_bytes": field("state, bytes", "state_bytes"),
        "key_value_bytes": field("keys and values, bytes", "key_value_bytes"),
        "tokens": field("tokens", "tokens"),
        "training_loss": ("training loss", Run.training_loss, DECIMALS),
    }
    for evaluation in evaluations_of(cells):
        for name in MEASURES:
            heading = f"{evaluation} {name.replace('_', ' ')}"
            number = _measured(evaluation, None, name)
            columns[f"{evaluation}_{name}"] = (heading, number, DECIMALS)
    columns["wall_seconds"] = field("seconds", "wall_seconds")
    columns["tokens_per_second"] = ("tokens/s", Run.tokens_per_second, WHOLE)
    return {
        name: column
        for name, column in columns.items()
        if any(spread(cell.runs, column[1]) for cell in cells)
    }


def _measured(evaluation: str, group: int | None, name: str) -> Number:
    return lambda run: run.measured(evaluation, group, name)


def _spreads(found: Mapping[str, Spread | None]) -> dict[str, float | None]:
    return {
        f"{name}_{part}": None if value is None else getattr(value, field)
        for name, value in found.items()
        for part, field in (("mean", "mean"), ("min", "low"), ("max", "high"))
    }


def _shown(value: Spread | None, form: str) -> str:
    if value is None:
        return ""
    mean, low, high = map(form.format, (value.mean, value.low, value.high))
    return mean if low == high else f"{mean} ({low}–{high})"


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
