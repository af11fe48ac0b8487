"""Progress of a sweep, read from the files of its runs, as a live table or as lines."""

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
from bmojo.sweep.check import Job
from bmojo.sweep.pool import Result
from bmojo.training.report import clock

__all__ = ["Progress", "View", "eta", "progress"]

TAIL = 16384
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 30.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
      step: steps done and logged.
      loss: of the newest line, or None.
      accuracy: of the newest line, or None.
      pace: seconds a step since the first line, without compilation; None: not known.
      seconds: of the run so far.
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
    step, seconds = speed[-1]["step"], speed[-1]["seconds"]
    first = speed[0]
    if first["step"] < step and first["seconds"] < seconds:
        step, seconds = step - first["step"], seconds - first["seconds"]
    return seconds / step


def eta(jobs: Sequence[Job], seen: Mapping[str, Progress], workers: int) -> float | None:
    """Seconds until all jobs are done; None as long as no run has logged a step.

    A run goes on at its own pace so far; one that has not begun at that of the same cell with
    another seed, or else at the mean of all.

    Args:
      jobs: all cells, finished ones too.
      seen: progress by name; a job without is taken not to have begun.
      workers: runs at a time.
    """
    paces = {name: known.pace for name, known in seen.items() if known.pace is not None}
    if not paces:
        return None
    by_cell = {_stem(job): paces[job.cell.name] for job in jobs if job.cell.name in paces}
    mean = sum(paces.values()) / len(paces)
    left = []
    for job in jobs:
        steps = job.steps - seen.get(job.cell.name, Progress()).step
        if job.state != "finished" and steps > 0:
            left.append(steps * paces.get(job.cell.name, by_cell.get(_stem(job), mean)))
    return max([sum(left) / workers, *left]) if left else 0.0


def _stem(job: Job) -> str:
    return job.cell.name.removesuffix(f"-seed{job.cell.seed}")


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
        if row.endswith(b"\n"):
            try:
                record = json.loads(row)
            except json.JSONDecodeError:  # where the tail begins
                continue
            if isinstance(record, dict) and "step" in record and "evaluation" not in record:
                records.append(record)
    return records


class View:
    """Progress of a sweep: a table that lives on a terminal, lines elsewhere.

    Args:
      console: shows it.
      jobs: all cells, finished ones too.
      workers: runs at a time.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], workers: int):
        self._console, self._jobs, self._workers = console, jobs, workers
        self._seen = {job.cell.name: progress(job.run) for job in jobs if job.state != "new"}
        self._active: dict[str, Job] = {}
        self._done = {job.cell.name for job in jobs if job.state == "finished"}
        self._failed: set[str] = set()
        self._looked = self._printed = time.monotonic()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                get_renderable=self._table, console=console, refresh_per_second=2, transient=True
            )

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, job: Job) -> None:
        """Print that a cell has begun."""
        self._active[job.cell.name] = job
        known = self._seen.get(job.cell.name)
        how = f"goes on after step {known.step}" if known else "started"
        self._say(f"{job.cell.name}: {how}")

    def ended(self, result: Result) -> None:
        """Print the end of a cell."""
        name = result.job.cell.name
        self._active.pop(name, None)
        self._seen[name] = seen = progress(result.job.run)
        if result.code == 0:
            self._done.add(name)
            took = f" in {clock(seen.seconds)}" if seen.seconds else ""
            self._say(f"{name}: finished{took}  {_numbers(seen)}")
        elif result.stopped:
            self._say(f"{name}: stopped at step {seen.step} of {result.job.steps}")
        else:
            self._failed.add(name)
            self._say(f"{name}: failed with exit code {result.code}, see {result.log}", "red")

    def tick(self) -> None:
        """Read the files of the runs now and then."""
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            for name, job in self._active.items():
                self._seen[name] = progress(job.run)
        if self._live is None and now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            for name, job in self._active.items():
                seen = self._seen.get(name, Progress())
                self._say(f"{name}: step {seen.step}/{job.steps}  {_numbers(seen)}")
            self._say(self._whole())

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("cell")
        for name in ("step", "", "loss", "accuracy"):
            table.add_column(name, justify="right")
        for name, job in self._active.items():
            seen = self._seen.get(name, Progress())
            numbers = ["" if x is None else f"{x:.3f}" for x in (seen.loss, seen.accuracy)]
            share = f"{seen.step / job.steps:.0%}"
            table.add_row(name, f"{seen.step}/{job.steps}", share, *numbers)
        return Group(table, Text(self._whole(), style="bold"))

    def _whole(self) -> str:
        """Counts, and when all will be done."""
        seconds = eta([j for j in self._jobs if j.cell.name not in self._failed], self._seen,
                      self._workers)  # fmt: skip
        waiting = len(self._jobs) - len(self._done) - len(self._failed) - len(self._active)
        parts = [f"{len(self._done)} of {len(self._jobs)} finished", f"{waiting} waiting"]
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        if seconds is not None:
            parts.append(f"ETA {clock(seconds)}")
        return ", ".join(parts)

    def _say(self, text: str, style: str | None = None) -> None:
        line(self._console, text, style=style)


def _numbers(seen: Progress) -> str:
    loss = "" if seen.loss is None else f"loss {seen.loss:.3f}"
    accuracy = "" if seen.accuracy is None else f"accuracy {seen.accuracy:.3f}"
    return "  ".join(filter(None, (loss, accuracy)))
