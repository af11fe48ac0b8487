"""Child processes: their start and exit codes, and the signals that ask a program to stop."""

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

PROGRAM = (sys.executable, "-P", "-m", "bmojo.cli", "--child")
"""The command of a ``bmojo`` that another one starts; -P: without modules of this folder."""

SUPERVISED = "BMOJO_SUPERVISED"
"""Environment variable of a program that another one started and supervises."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a program to stop; the last one not if it is ignored, as under nohup."""


def handle_stops(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set a handler of the signals that ask this program to stop; the handlers before it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {number: signal.signal(number, handler) for number in (STOPS[:2] if ignored else STOPS)}


def start(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a program in a process group of its own, so that Ctrl-C reaches it through us only.

    Its output comes at once; the options are those of :class:`subprocess.Popen`.
    """
    environment = dict(options.pop("env", None) or os.environ, PYTHONUNBUFFERED="1")
    return subprocess.Popen(list(command), env=environment, process_group=0, **options)


def run_bmojo(arguments: Sequence[str]) -> None:
    """Run ``bmojo`` with these arguments in this process; exits as it does."""
    sys.argv = ["bmojo", *arguments]
    runpy.run_module("bmojo.cli", run_name="__main__")


def signal_of(code: int) -> int | None:
    """The signal that ended a program with this return code, or None."""
    return -code if code < 0 else None


def exit_code(code: int) -> int:
    """What a shell would say: the exit code, or 128 + the signal."""
    number = signal_of(code)
    return code if number is None else 128 + number


def was_asked_to_stop(code: int) -> bool:
    """Whether a program with this return code ended by one of :data:`STOPS`."""
    return code in {c for s in STOPS for c in (128 + s, -s)}


class StopSignals:
    """Within it SIGINT, SIGTERM and SIGHUP only set a flag, :meth:`requested`, for a loop to read.

    ``notice`` is called with the signal's name. A second SIGINT interrupts at once, as usual.
    Outside the main thread, where Python sets no handlers, nothing is caught.
    """

    def __init__(self, notice: Callable[[str], None] = lambda name: None):
        self.number: int | None = None
        self._notice = notice
        self._before: dict[int, Any] = {}

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = handle_stops(self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        self._notice(signal.Signals(number).name)
