"""Tables of a report: Markdown to read, CSV to compute with."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bmojo.evaluation.collect import Cell, Run, Spread, row_of, spread

__all__ = ["accuracy_csv", "accuracy_table", "cells_csv", "cells_table", "runs_csv", "unfinished"]

Number = Callable[[Run], float | None]
Format = Callable[[float], str]


def _final(name: str) -> Number:
    return lambda run: (run.summary or {}).get("final", {}).get(name)


def _field(name: str) -> Number:
    return lambda run: run.number(name)


def _row(evaluation: str, group: int | None, name: str) -> Number:
    return lambda run: row_of(run, evaluation, group).get(name)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _decimals(value: float) -> str:
    return f"{value:.3f}"


def _columns(cells: Sequence[Cell]) -> dict[str, tuple[str, Number, Format]]:
    """Name in CSV -> heading, number and format of each column that any cell fills."""
    columns: dict[str, tuple[str, Number, Format]] = {
        "parameters": ("parameters", _field("parameters"), _whole),
        "state_bytes": ("state, bytes", _field("state_bytes"), _whole),
        "key_value_bytes": ("keys and values, bytes", _field("key_value_bytes"), _whole),
        "tokens": ("tokens", _field("tokens"), _whole),
        "training_loss": ("training loss", _final("loss"), _decimals),
    }
    for evaluation in _evaluations(cells):
        for name in ("accuracy", "loss", "bits_per_byte"):
            heading = f"{evaluation} {name.replace('_', ' ')}"
            columns[f"{evaluation}_{name}"] = (heading, _row(evaluation, None, name), _decimals)
    columns["wall_seconds"] = ("seconds", _field("wall_seconds"), _whole)
    columns["tokens_per_second"] = ("tokens/s", Run.tokens_per_second, _whole)
    return {
        name: column
        for name, column in columns.items()
        if any(spread(cell.runs, column[1]) for cell in cells)
    }


def _evaluations(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name in cell.evaluations()))


def cells_table(cells: Sequence[Cell]) -> str:
    """A Markdown table: a line for each cell, means over seeds, lowest–highest in brackets."""
    columns = _columns(cells)
    head = ["cell", "seeds", *(heading for heading, _, _ in columns.values())]
    lines = [
        [cell.label, str(len(cell.runs))]
        + [_shown(spread(cell.runs, number), form) for _, number, form in columns.values()]
        for cell in cells
    ]
    return _markdown(head, lines)


def accuracy_table(cells: Sequence[Cell], evaluation: str) -> str:
    """A Markdown table of an evaluation's accuracy by group, as ``cells_table``."""
    have = [cell for cell in cells if evaluation in cell.evaluations()]
    groups = sorted({group for cell in have for group in cell.groups(evaluation)})
    lines = [
        [cell.label, str(len(cell.runs))]
        + [
            _shown(spread(cell.runs, _row(evaluation, group, "accuracy")), _decimals)
            for group in [*groups, None]
        ]
        for cell in have
    ]
    return _markdown(["cell", "seeds", *map(str, groups), "all"], lines)


def unfinished(runs: Sequence[Run]) -> str:
    """A Markdown list of the runs that are not finished; empty if all are."""
    lines = []
    for run in runs:
        if run.summary is None:
            step = run.metrics[-1]["step"] if run.metrics else 0
            lines.append(f"- {run.path.name}: after step {step}")
    return "\n".join(lines)


def cells_csv(cells: Sequence[Cell]) -> str:
    """A line for each cell; for each number its mean, lowest and highest over seeds."""
    columns = _columns(cells)
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"cell": cell.label, "seeds": len(cell.runs)}
        for name, (_, number, _) in columns.items():
            row |= _three(name, spread(cell.runs, number))
        rows.append(row)
    return _csv(rows)


def accuracy_csv(cells: Sequence[Cell]) -> str:
    """A line for each cell, evaluation and group ('all' over all groups)."""
    rows = []
    for cell in cells:
        for evaluation in cell.evaluations():
            for group in [*cell.groups(evaluation), None]:
                row: dict[str, Any] = {"cell": cell.label, "evaluation": evaluation}
                row |= {"group": "all" if group is None else group, "seeds": len(cell.runs)}
                for name in ("accuracy", "loss", "bits_per_byte"):
                    row |= _three(name, spread(cell.runs, _row(evaluation, group, name)))
                rows.append(row)
    return _csv(rows)


def runs_csv(cells: Sequence[Cell]) -> str:
    """A line for each finished run."""
    columns = _columns(cells)
    rows = []
    for cell in cells:
        for run in cell.runs:
            row: dict[str, Any] = {"cell": cell.label, "run": str(run.path), "seed": run.seed}
            row |= {name: number(run) for name, (_, number, _) in columns.items()}
            rows.append(row | {"git_revision": (run.summary or {}).get("git_revision")})
    return _csv(rows)


def _three(name: str, value: Spread | None) -> dict[str, float | None]:
    if value is None:
        return {f"{name}_{part}": None for part in ("mean", "min", "max")}
    return {f"{name}_mean": value.mean, f"{name}_min": value.low, f"{name}_max": value.high}


def _shown(value: Spread | None, form: Format) -> str:
    if value is None:
        return ""
    if form(value.low) == form(value.high):
        return form(value.mean)
    return f"{form(value.mean)} ({form(value.low)}–{form(value.high)})"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    rows = [head, rule, *lines]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
