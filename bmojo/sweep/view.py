"""What a sweep shows: a table that lives on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bmojo.sweep.check import Job
from bmojo.sweep.pool import Result
from bmojo.sweep.watch import Progress, eta, progress
from bmojo.training.report import clock

__all__ = ["View"]

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 30.0


class View:
    """Progress of a sweep.

    Args:
      console: where to show it.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, job: Job) -> None:
        """Say that a cell has begun."""
        self._active[job.cell.name] = job
        known = self._seen.get(job.cell.name)
        how = f"goes on after step {known.step}" if known else "started"
        self._say(f"{job.cell.name}: {how}")

    def ended(self, result: Result) -> None:
        """Say how a cell ended."""
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
        """Look at the runs now and then."""
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
            table.add_row(
                name,
                f"{seen.step}/{job.steps}",
                f"{seen.step / job.steps:.0%}",
                "" if seen.loss is None else f"{seen.loss:.3f}",
                "" if seen.accuracy is None else f"{seen.accuracy:.3f}",
            )
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
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _numbers(seen: Progress) -> str:
    loss = "" if seen.loss is None else f"loss {seen.loss:.3f}"
    accuracy = "" if seen.accuracy is None else f"accuracy {seen.accuracy:.3f}"
    return "  ".join(filter(None, (loss, accuracy)))
