"""Samples to numbers: a row for each case, and the file that keeps all of it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmojo.benchmark import calibration, machine
from bmojo.benchmark.cases import Case, Check, require
from bmojo.benchmark.rounds import take_turns
from bmojo.benchmark.statistics import Spread, ratios, spread
from bmojo.errors import UserError
from bmojo.files import write_atomically

__all__ = ["Results", "Row", "measure", "save", "write_folder"]

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one case.

    Attributes:
      case: its name.
      group: its table.
      seconds: of one unit of it.
      baseline: the case it is compared with.
      ratio: of its seconds to the baseline's in the same round.
      compile_seconds: to compile it.
      temporary_bytes: what XLA reserves beside arguments and results.
      flops: of one unit, by formula.
      xla_flops: of a call, as XLA counts.
      gflops: billions of ``flops`` a second.
      gemm_fraction: ``gflops`` as a part of the best matrix product's in the same round.
      calls: of a sample.
      samples: seconds by round.
      facts: further columns.
    """

    case: str
    group: str
    seconds: Spread
    baseline: str | None
    ratio: Spread | None
    compile_seconds: float | None
    temporary_bytes: int | None
    flops: float | None
    xla_flops: float | None
    gflops: Spread | None
    gemm_fraction: Spread | None
    calls: int
    samples: tuple[float, ...]
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Results:
    """A whole measurement.

    Attributes:
      benchmark: which one.
      settings: its options.
      machine: see :func:`bmojo.benchmark.machine.record`.
      checks: passed before anything was timed.
      gemm: name of the matrix product that fractions refer to.
      rows: of the cases, those of the calibration last.
      notes: sentences that follow from the rows, or say what was left out.
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
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return found

    def as_json(self) -> str:
        """All of it as a JSON document."""
        data = {"format": FORMAT, **dataclasses.asdict(self)}
        for check, there in zip(data["checks"], self.checks, strict=True):
            check["passed"] = there.passed
        return json.dumps(data, indent=1, allow_nan=False) + "\n"


def measure(
    benchmark: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    checks: Sequence[Check],
    cases: Sequence[Case],
    rounds: int,
    done: Callable[[int], None] = lambda count: None,
    conclude: Callable[[Sequence[Row]], Sequence[str]] = lambda rows: (),
) -> Results:
    """Time cases round by round, if what they compute is right.

    Args:
      benchmark: what it is called.
      settings: its options, for the record.
      facts: from :func:`bmojo.benchmark.machine.record`.
      checks: of the cases.
      cases: those of the suite and of the calibration.
      rounds: samples of each case.
      done: called with 1 after each run.
      conclude: makes sentences of the rows.

    Raises:
      WrongError: a check has failed; nothing was timed.
    """
    require(checks)
    samples, calls = take_turns(cases, rounds, done)
    by_name = {_key(case): taken for case, taken in zip(cases, samples, strict=True)}
    gemm = _best_product(cases, by_name)
    rows = []
    for case, taken, count in zip(cases, samples, calls, strict=True):
        reference = by_name.get((case.group, case.baseline or ""))
        speed = fraction = None
        if case.flops is not None:
            speeds = [case.flops / seconds / 1e9 for seconds in taken]
            speed = spread(speeds)
            if gemm is not None:
                best = [gemm.flops / seconds / 1e9 for seconds in by_name[_key(gemm)]]  # type: ignore[operator]
                fraction = ratios(speeds, best)
        rows.append(
            Row(
                case.name,
                case.group,
                spread(taken),
                case.baseline if reference is not None else None,
                None if reference is None else ratios(taken, reference),
                case.compile_seconds,
                case.temporary_bytes,
                case.flops,
                case.xla_flops,
                speed,
                fraction,
                count,
                tuple(taken),
                dict(case.facts),
            )
        )
    ended = {**facts, "load_at_end": machine.load()}
    name = None if gemm is None else gemm.name
    notes = tuple(conclude(rows))
    if name is not None:
        notes = (*notes, f"parts of GEMM are of {name}, the fastest matrix product here")
    return Results(benchmark, dict(settings), ended, tuple(checks), name, tuple(rows), notes)


Key = tuple[str, str]


def _key(case: Case) -> Key:
    return case.group, case.name


def _best_product(cases: Sequence[Case], samples: Mapping[Key, Sequence[float]]) -> Case | None:
    """The calibration's matrix product with the highest median rate."""
    products = [c for c in cases if c.group == calibration.GROUP and c.flops is not None]
    return max(
        products,
        key=lambda case: (case.flops or 0.0) / spread(samples[_key(case)]).median,
        default=None,
    )


def write_folder(path: Path) -> None:
    """Make the folder for results, before any work.

    Raises:
      UserError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".results.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--out: {path} cannot be written ({error.strerror}); choose another folder"
        ) from None


def save(results: Results, text: str, folder: Path) -> tuple[Path, Path]:
    """Write ``results.json`` and ``results.md``; readers see whole files only."""
    paths = folder / "results.json", folder / "results.md"
    for path, content in zip(paths, (results.as_json(), text), strict=True):
        write_atomically(path, content)
    return paths
