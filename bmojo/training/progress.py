"""What a run shows while it trains: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


class Status:
    """Progress of a run.

    Args:
      console: where to show it.
      total: steps of the whole run.
      step: steps done before.
    """

    def __init__(self, console: Console, total: int, step: int = 0):
        self._console, self._total, self._first = console, total, step
        self._started: float | None = None
        self._last_line = 0.0
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[stage]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=console,
                expand=True,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, completed=step, stage="", numbers="")

    def __enter__(self) -> "Status":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(
        self, step: int, stage: str, loss: float, accuracy: float, tokens_per_second: float | None
    ) -> None:
        """Show the numbers of a step."""
        numbers = f"loss {loss:.3f}  accuracy {accuracy:.3f}"
        if tokens_per_second is not None:
            numbers += f"  {tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, stage=stage, numbers=numbers)
            return
        now = time.monotonic()
        if self._started is None:  # the first step has waited for the compiler
            self._started = self._last_line = now
            self._first = step
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._started) / (step - self._first) * (self._total - step)
            self._console.print(
                f"step {step}/{self._total}  {stage}  {numbers}  ETA {clock(left)}",
                highlight=False,
            )


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
