"""Programs that one of ours starts: how they begin, and what their ends mean."""

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

__all__ = ["STOPS", "SUPERVISED", "exit_code", "signal_of", "start", "was_asked_to_stop"]

SUPERVISED = "BMOJO_SUPERVISED"
"""Environment variable of a program whose end is looked after by the one that started it."""

STOPS = (signal.SIGINT, signal.SIGTERM)
"""Signals by which somebody asks a program to stop."""


def start(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a program in a process group of its own, so that Ctrl-C reaches it through us only.

    Args:
      command: the program and its arguments.
      options: of :class:`subprocess.Popen`; ``env`` is completed so that output comes at once.
    """
    environment = dict(options.pop("env", None) or os.environ, PYTHONUNBUFFERED="1")
    return subprocess.Popen(list(command), env=environment, process_group=0, **options)


def signal_of(code: int) -> int | None:
    """The signal that ended a program with this return code, or None."""
    return -code if code < 0 else None


def exit_code(code: int) -> int:
    """What a shell would say: the exit code, or 128 + the signal."""
    number = signal_of(code)
    return code if number is None else 128 + number


def was_asked_to_stop(code: int) -> bool:
    """Whether a program with this return code ended because somebody asked it to."""
    return code in {c for s in STOPS for c in (128 + s, -s)}
