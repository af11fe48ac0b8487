"""Progress of a sweep, read from the files of its runs, as a live table or as lines."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bmojo.console import line
from bmojo.sweep.plan import Cell
from bmojo.sweep.pool import Result
from bmojo.training.report import clock

__all__ = ["Progress", "View", "eta", "progress"]

TAIL = 16384
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 30.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run: steps logged, numbers of the newest line, seconds so far.

    The ``pace`` is seconds a step since the first line, without compilation; None: not known.
    """

    step: int = 0
    loss: float | None = None
    accuracy: float | None = None
    pace: float | None = None
    seconds: float = 0.0


def progress(run: Path) -> Progress:
    """The newest lines of ``metrics.jsonl`` and ``speed.jsonl``; zeros if there are none."""
    lines = _ends(run / "metrics.jsonl")
    if not lines:
        return Progress()
    last = lines[-1]
    speed = [record for record in _ends(run / "speed.jsonl") if record.get("seconds")]
    seconds = speed[-1]["seconds"] if speed else 0.0
    return Progress(last["step"], last.get("loss"), last.get("accuracy"), _pace(speed), seconds)


def _pace(speed: Sequence[dict[str, Any]]) -> float | None:
    """Seconds a step between the first and the last line, or up to the only one."""
    if not speed:
        return None
    (first, begin), (step, seconds) = ((x["step"], x["seconds"]) for x in (speed[0], speed[-1]))
    if first < step and begin < seconds:
        step, seconds = step - first, seconds - begin
    return seconds / step


def eta(cells: Sequence[Cell], seen: Mapping[str, Progress], workers: int) -> float | None:
    """Seconds until all cells are done; None as long as no run has logged a step.

    A run goes on at its own pace so far; one that has not begun at that of the same cell with
    another seed, or else at the mean of all. Cells are all, finished ones too; ``seen`` is
    progress by name.
    """
    paces = {name: known.pace for name, known in seen.items() if known.pace is not None}
    if not paces:
        return None
    by_cell = {cell.unseeded: paces[cell.name] for cell in cells if cell.name in paces}
    mean = sum(paces.values()) / len(paces)
    left = []
    for cell in cells:
        steps = cell.steps - seen.get(cell.name, Progress()).step
        if cell.state != "finished" and steps > 0:
            left.append(steps * paces.get(cell.name, by_cell.get(cell.unseeded, mean)))
    return max([sum(left) / workers, *left]) if left else 0.0


def _ends(path: Path) -> list[dict[str, Any]]:
    """The first line and whole lines of the end of a file; evaluations are left out."""
    try:
        with open(path, "rb") as file:
            lines = [file.readline()]
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL, len(lines[0])))
            lines += file.read().splitlines(keepends=True)
    except OSError:
        return []
    records = []
    for row in lines:
        with contextlib.suppress(ValueError):  # where the tail begins
            record = json.loads(row) if row.endswith(b"\n") else None
            if isinstance(record, dict) and "step" in record and "evaluation" not in record:
                records.append(record)
    return records


class View:
    """Progress of a sweep: a table that lives on a terminal, lines elsewhere.

    Args:
      console: shows it.
      cells: all of them, finished ones too.
      workers: runs at a time.
    """

    def __init__(self, console: Console, cells: Sequence[Cell], workers: int):
        self._console, self._cells, self._workers = console, cells, workers
        self._seen = {cell.name: progress(cell.run) for cell in cells if cell.state != "new"}
        self._active: dict[str, Cell] = {}
        self._done = {cell.name for cell in cells if cell.state == "finished"}
        self._failed: set[str] = set()
        self._looked = self._printed = time.monotonic()
        shown: dict[str, Any] = dict(console=console, refresh_per_second=2, transient=True)
        self._live = Live(get_renderable=self._table, **shown) if console.is_terminal else None

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, cell: Cell) -> None:
        """Print that a cell has begun."""
        self._active[cell.name] = cell
        known = self._seen.get(cell.name)
        self._say(f"{cell.name}: {f'goes on after step {known.step}' if known else 'started'}")

    def ended(self, result: Result) -> None:
        """Print the end of a cell."""
        name = result.cell.name
        self._active.pop(name, None)
        self._seen[name] = seen = progress(result.cell.run)
        if result.code == 0:
            self._done.add(name)
            took = f" in {clock(seen.seconds)}" if seen.seconds else ""
            self._say(f"{name}: finished{took}  {_numbers(seen)}")
        elif result.stopped:
            self._say(f"{name}: stopped at step {seen.step} of {result.cell.steps}")
        else:
            self._failed.add(name)
            self._say(f"{name}: failed with exit code {result.code}, see {result.log}", "red")

    def tick(self) -> None:
        """Read the files of the runs now and then."""
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._seen |= {name: progress(cell.run) for name, cell in self._active.items()}
        if self._live is None and now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            for name, cell in self._active.items():
                seen = self._seen.get(name, Progress())
                self._say(f"{name}: step {seen.step}/{cell.steps}  {_numbers(seen)}")
            self._say(self._whole())

    def _table(self) -> RenderableType:
        table = Table("cell", box=None, pad_edge=False, header_style="dim")
        for name in ("step", "", "loss", "accuracy"):
            table.add_column(name, justify="right")
        for name, cell in self._active.items():
            seen = self._seen.get(name, Progress())
            numbers = ["" if x is None else f"{x:.3f}" for x in (seen.loss, seen.accuracy)]
            share = f"{seen.step / cell.steps:.0%}"
            table.add_row(name, f"{seen.step}/{cell.steps}", share, *numbers)
        return Group(table, Text(self._whole(), style="bold"))

    def _whole(self) -> str:
        """Counts, and when all will be done."""
        left = [cell for cell in self._cells if cell.name not in self._failed]
        seconds = eta(left, self._seen, self._workers)
        waiting = len(left) - len(self._done) - len(self._active)
        parts = [f"{len(self._done)} of {len(self._cells)} finished", f"{waiting} waiting"]
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        if seconds is not None:
            parts.append(f"ETA {clock(seconds)}")
        return ", ".join(parts)

    def _say(self, text: str, style: str | None = None) -> None:
        line(self._console, text, style=style)


def _numbers(seen: Progress) -> str:
    numbers = {"loss": seen.loss, "accuracy": seen.accuracy}
    return "  ".join(f"{name} {x:.3f}" for name, x in numbers.items() if x is not None)
