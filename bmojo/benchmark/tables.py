"""Results to read: the same tables on the terminal and in Markdown."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from bmojo.benchmark import calibration, machine
from bmojo.benchmark.cases import Check
from bmojo.benchmark.results import Results, Row
from bmojo.benchmark.statistics import Spread

__all__ = ["Sheet", "check_sheet", "markdown", "sheets", "terminal"]

LEGEND = (
    "Times are medians, with the first and the third quartile in brackets. Ratios are medians of "
    "the ratios within each round. Operations are counted by formula; XLA's own count takes the "
    "body of a loop once. Temporary memory is what XLA reserves beside arguments and results."
)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
      title: what stands above it.
      head: names of the columns.
      lines: a cell for each column.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def sheets(results: Results) -> list[Sheet]:
    """The tables of all cases, the calibration last."""
    made = []
    for group, rows in results.groups().items():
        if group == calibration.GROUP:
            made.append(_calibration_sheet(rows))
        else:
            made.append(_sheet(group, rows))
    return made


def check_sheet(checks: Sequence[Check]) -> Sheet:
    """What was compared before anything was timed."""
    head = ("case", "compared", "difference", "allowed", "")
    lines = tuple(
        (c.case, c.what, f"{c.difference:.1e}", f"{c.limit:.0e}", "" if c.passed else "WRONG")
        for c in checks
    )
    return Sheet("checks", head, lines)


def terminal(sheet: Sheet) -> Table:
    """A table for a console."""
    table = Table(title=sheet.title)
    for index, name in enumerate(sheet.head):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for line in sheet.lines:
        table.add_row(*line)
    return table


def markdown(results: Results) -> str:
    """The whole as a page: how it was taken, tables, what follows from them."""
    facts = results.machine
    lines = [f"# bmojo bench {results.benchmark}", ""]
    for warning in (machine.busy(facts["load_at_start"]), machine.cached(facts)):
        lines += [f"**{warning}.**", ""] if warning else []
    lines += [f"    {facts['command']}", ""]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    known = {
        "date": facts["date"],
        "revision": facts["git_revision"],
        "CPU": f"{facts['cpu']}, {facts['threads']} of {facts['cores']} cores",
        "device": facts["device"],
        "versions": versions,
        "load average": f"{facts['load_at_start']} before, {facts['load_at_end']} after",
        "freed memory kept": facts["freed_memory_kept"],
        "GLIBC_TUNABLES": facts["glibc_tunables"] or "-",
    }
    for part in (known, results.settings):
        lines += [f"- {name}: {_plain(value)}" for name, value in part.items() if value is not None]
    lines += ["", LEGEND, ""]
    for sheet in sheets(results):
        lines += [f"## {sheet.title}", "", _markdown(sheet), ""]
    if results.notes:
        lines += [*(f"- {note}" for note in results.notes), ""]
    lines += ["## checks", "", _markdown(check_sheet(results.checks)), ""]
    return "\n".join(lines)


Cell = Callable[[Row], str]


def _sheet(group: str, rows: Sequence[Row]) -> Sheet:
    """A table of cases, without the columns that nobody fills."""
    baselines = {row.baseline for row in rows if row.baseline}
    against = baselines.pop() if len(baselines) == 1 else "baseline"
    columns: dict[str, Cell] = {
        "case": lambda row: row.case,
        "ms": lambda row: _spread(row.seconds, 1e3),
        f"time / {against}": lambda row: _spread(row.ratio),
        "GFLOP/s": lambda row: _spread(row.gflops),
        "of GEMM": lambda row: "" if row.gemm_fraction is None else _percent(row.gemm_fraction),
        "GFLOPs": lambda row: _number(row.flops, 1e-9),
        "XLA's GFLOPs": lambda row: _number(row.xla_flops, 1e-9),
        "temporary MiB": lambda row: _number(row.temporary_bytes, 2**-20),
        "compile s": lambda row: _number(row.compile_seconds),
    }
    for name in dict.fromkeys(name for row in rows for name in row.facts):
        columns[name] = lambda row, name=name: _plain(row.facts.get(name))  # type: ignore[misc]
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines)]
    names = list(columns)
    return Sheet(
        group,
        tuple(names[i] for i in kept),
        tuple(tuple(line[i] for i in kept) for line in lines),
    )


def _calibration_sheet(rows: Sequence[Row]) -> Sheet:
    lines = []
    for row in rows:
        work, low, high = row.facts["work"], row.seconds.high, row.seconds.low
        rates = [work / seconds / 1e9 for seconds in (row.seconds.median, low, high)]
        shown = f"{_short(rates[0])} ({_short(rates[1])}–{_short(rates[2])})"
        lines.append((row.case, shown, row.facts["rate"], _spread(row.seconds, 1e3)))
    return Sheet(calibration.GROUP, ("what", "rate", "in", "ms"), tuple(lines))


def _spread(value: Spread | None, scale: float = 1.0) -> str:
    if value is None:
        return ""
    median, low, high = (_short(v * scale) for v in (value.median, value.low, value.high))
    return median if median == low == high else f"{median} ({low}–{high})"


def _percent(value: Spread) -> str:
    return f"{_short(value.median * 100)} %"


def _number(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else _short(value * scale)


def _short(value: float) -> str:
    """Three significant digits, or all before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return shown
    return f"{value:,}" if isinstance(value, int) else _short(value)


def _markdown(sheet: Sheet) -> str:
    rule = ("---", *["---:"] * (len(sheet.head) - 1))
    rows = (sheet.head, rule, *sheet.lines)
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
