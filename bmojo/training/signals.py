"""Stopping between two steps instead of in the middle of one."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Turns SIGINT and SIGTERM into a request that the loop sees at its next step.

    A second SIGINT interrupts at once, as usual. Outside the main thread, where Python lets
    nobody set handlers, nothing is caught.

    Args:
      notice: called with the signal's name when the request comes.
    """

    def __init__(self, notice: Callable[[str], None] = lambda name: None):
        self.number: int | None = None
        self._notice = notice
        self._before: dict[int, object] = {}

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        self._notice(signal.Signals(number).name)
