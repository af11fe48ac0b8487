"""Results of a benchmark: a row for each case, JSON with all samples, tables to read."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bmojo.benchmark import machine
from bmojo.benchmark.cases import Case, Check, require
from bmojo.benchmark.rounds import Quantiles, quantiles, ratios, take_turns
from bmojo.console import Progress, make_table, markdown_table, unseen
from bmojo.errors import UserError
from bmojo.files import write_atomically

FORMAT = 1
LEGEND = (
    "Times are medians, with the first and the third quartile in brackets. Ratios are medians of "
    "the ratios within each round. Operations are counted by formula; XLA's own count takes the "
    "body of a loop once. Temporary memory is what XLA reserves beside arguments and results."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Measurements of one case, named ``case``; other fields are those of :class:`~.cases.Case`.

    ``seconds`` are of one unit, ``samples`` by round; ``ratio`` is to the baseline in the round,
    ``gemm_fraction`` that of ``gflops`` to the best matrix product in the round.
    """

    case: str
    group: str
    seconds: Quantiles
    baseline: str | None
    ratio: Quantiles | None
    compile_seconds: float | None
    temporary_bytes: int | None
    flops: float | None
    xla_flops: float | None
    gflops: Quantiles | None
    gemm_fraction: Quantiles | None
    calls: int
    samples: tuple[float, ...]
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Results:
    """A whole measurement: rows of the cases, those of the calibration last.

    ``machine`` is the record of :mod:`bmojo.benchmark.machine`, ``gemm`` the matrix product that
    fractions refer to; ``notes`` are conclusions, and cases that were left out.
    """

    benchmark: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    checks: tuple[Check, ...]
    gemm: str | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def groups(self) -> dict[str, list[Row]]:
        """Rows by table."""
        return by_fact(self.rows, None, lambda row: row.group)

    def as_json(self) -> str:
        """All of it as a JSON document."""
        data = {"format": FORMAT, **dataclasses.asdict(self)}
        for check, there in zip(data["checks"], self.checks, strict=True):
            check["passed"] = there.passed
        return json.dumps(data, indent=1, allow_nan=False) + "\n"


def by_fact(
    rows: Iterable[Row], fact: str | None, key: Callable[[Row], str]
) -> dict[str, list[Row]]:
    """Rows that have a fact, by ``key``; None: all rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if fact is None or fact in row.facts:
            found.setdefault(key(row), []).append(row)
    return found


def measure(
    benchmark: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    checks: Sequence[Check],
    cases: Sequence[Case],
    rounds: int,
    done: Progress = unseen,
    conclude: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: (),
) -> Results:
    """Time the cases of a suite and of the calibration round by round, if all checks passed.

    ``facts`` are those of the machine; ``conclude`` makes sentences of the rows.

    Raises:
      WrongError: a check has failed; nothing was timed.
    """
    require(checks)
    samples, calls = take_turns(cases, rounds, done)
    taken = {(c.group, c.name): seconds for c, seconds in zip(cases, samples, strict=True)}

    def speeds(case: Case) -> list[float]:
        return [(case.flops or 0.0) / seconds / 1e9 for seconds in taken[case.group, case.name]]

    products = [c for c in cases if c.group == machine.CALIBRATION and c.flops is not None]
    gemm = max(products, key=lambda case: quantiles(speeds(case)).median, default=None)
    rows = []
    for case, seconds, count in zip(cases, samples, calls, strict=True):
        reference = taken.get((case.group, case.baseline or ""))
        base = None if reference is None else case.baseline
        ratio = None if reference is None else ratios(seconds, reference)
        fast = None if case.flops is None else quantiles(speeds(case))
        share = None if fast is None or gemm is None else ratios(speeds(case), speeds(gemm))
        known = (case.compile_seconds, case.temporary_bytes, case.flops, case.xla_flops)
        found: Any = (base, ratio, *known, fast, share, count, tuple(seconds), dict(case.facts))
        rows.append(Row(case.name, case.group, quantiles(seconds), *found))
    notes = tuple(conclude(rows))
    if gemm is not None:
        notes = (*notes, f"parts of GEMM are of {gemm.name}, the fastest matrix product here")
    ended = {**facts, "load_at_end": machine.load()}
    name = None if gemm is None else gemm.name
    return Results(benchmark, dict(settings), ended, tuple(checks), name, tuple(rows), notes)


def write_folder(path: Path) -> None:
    """Make the folder for results, before any work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".results.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--out: {path} cannot be written ({error.strerror}); choose another folder"
        ) from None


def save(results: Results, folder: Path) -> tuple[Path, Path]:
    """Write ``results.json`` and ``results.md``; readers see whole files only."""
    paths = folder / "results.json", folder / "results.md"
    for path, content in zip(paths, (results.as_json(), markdown(results)), strict=True):
        write_atomically(path, content)
    return paths


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table of text: its title, names of its columns, and lines with a cell for each column."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """The table for a terminal."""
        table = make_table(self.title, self.head, self.lines, left=self.head[:1])
        for column in table.columns:
            column.overflow = "fold"
        return table

    def markdown(self) -> str:
        """The table in Markdown, without the title."""
        return markdown_table(self.head, self.lines)


def sheets(results: Results) -> list[Sheet]:
    """The tables of all cases, the calibration last."""
    return [
        (_calibration_sheet if group == machine.CALIBRATION else _sheet)(group, rows)
        for group, rows in results.groups().items()
    ]


def check_sheet(checks: Sequence[Check]) -> Sheet:
    """The table of the checks."""
    head = ("case", "compared", "difference", "allowed", "")
    lines = tuple(
        (c.case, c.what, f"{c.difference:.1e}", f"{c.limit:.0e}", "" if c.passed else "WRONG")
        for c in checks
    )
    return Sheet("checks", head, lines)


def markdown(results: Results) -> str:
    """A page of all results: how they were taken, tables, conclusions, checks."""
    facts = results.machine
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
    lines = [f"# bmojo bench {results.benchmark}", ""]
    for warning in machine.warnings(facts):
        lines += [f"**{warning}.**", ""]
    lines += [f"    {facts['command']}", ""]
    for part in (known, results.settings):
        lines += [f"- {name}: {_plain(value)}" for name, value in part.items() if value is not None]
    lines += ["", LEGEND, ""]
    for sheet in sheets(results):
        lines += [f"## {sheet.title}", "", sheet.markdown(), ""]
    lines += [*(f"- {note}" for note in results.notes), ""] if results.notes else []
    return "\n".join([*lines, "## checks", "", check_sheet(results.checks).markdown(), ""])


def _sheet(group: str, rows: Sequence[Row]) -> Sheet:
    """A table of cases, without empty columns."""
    baselines = {row.baseline for row in rows if row.baseline}
    against = baselines.pop() if len(baselines) == 1 else "baseline"
    columns: dict[str, Callable[[Row], str]] = {
        "case": lambda row: row.case,
        "ms": lambda row: _spread(row.seconds, 1e3),
        f"time / {against}": lambda row: _spread(row.ratio),
        "GFLOP/s": lambda row: _spread(row.gflops),
        "of GEMM": lambda row: (
            f"{_short(row.gemm_fraction.median * 100)} %" if row.gemm_fraction else ""
        ),
        "GFLOPs": lambda row: _number(row.flops, 1e-9),
        "XLA's GFLOPs": lambda row: _number(row.xla_flops, 1e-9),
        "temporary MiB": lambda row: _number(row.temporary_bytes, 2**-20),
        "compile s": lambda row: _number(row.compile_seconds),
    }
    for name in dict.fromkeys(name for row in rows for name in row.facts):
        columns[name] = lambda row, name=name: _plain(row.facts.get(name))  # type: ignore[misc]
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines)]
    head, *lines = ([line[i] for i in kept] for line in (list(columns), *lines))
    return Sheet(group, tuple(head), tuple(map(tuple, lines)))


def _calibration_sheet(group: str, rows: Sequence[Row]) -> Sheet:
    lines = []
    for row in rows:
        work, high, low = row.facts["work"] / 1e9, row.seconds.high, row.seconds.low
        best, slow, fast = (_short(work / seconds) for seconds in (row.seconds.median, high, low))
        shown = f"{best} ({slow}–{fast})"
        lines.append((row.case, shown, row.facts["rate"], _spread(row.seconds, 1e3)))
    return Sheet(group, ("what", "rate", "in", "ms"), tuple(lines))


def _spread(value: Quantiles | None, scale: float = 1.0) -> str:
    if value is None:
        return ""
    median, low, high = (_short(v * scale) for v in (value.median, value.low, value.high))
    return median if median == low == high else f"{median} ({low}–{high})"


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
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else _short(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
