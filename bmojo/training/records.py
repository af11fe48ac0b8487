"""JSON lines that survive being killed, and TensorBoard events beside them."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from bmojo.training.rundir import write_atomically

Record = dict[str, Any]

DIGITS = 7


def dumps(record: Record) -> str:
    """One line of JSON: floats to seven significant digits, keys in the order given."""
    return json.dumps({key: _rounded(value) for key, value in record.items()}, allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def read(path: Path) -> list[Record]:
    """All whole lines of a file; a last line that was cut off is left out."""
    return [record for _, record in _lines(path)]


def cut(path: Path, keep: Callable[[Record], bool]) -> None:
    """Leave only the lines to keep, byte by byte as they were, in one atomic step."""
    if path.exists():
        write_atomically(path, b"".join(line for line, record in _lines(path) if keep(record)))


def _lines(path: Path) -> Iterable[tuple[bytes, Record]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        yield line, json.loads(line)


class Lines:
    """A file to which whole lines are added; each reaches the system as soon as it is written."""

    def __init__(self, path: Path):
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, record: Record) -> None:
        """Add a line."""
        self._file.write(dumps(record).encode() + b"\n")

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


class Nowhere(contextlib.nullcontext[None]):
    """In place of :class:`Lines` where another process writes."""

    def write(self, record: Record) -> None:
        """Forget it."""

    def sync(self) -> None:
        """There is nothing to wait for."""


class Events:
    """Scalars for TensorBoard; writes nothing if switched off or tensorboardX is absent.

    Args:
      path: directory of the event files.
      step: events of later steps, left by a run that was cut off, are hidden.
      enabled: false to write nothing.
    """

    def __init__(self, path: Path, step: int, enabled: bool = True):
        self._writer = None
        if enabled:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                return
            self._writer = SummaryWriter(str(path), purge_step=step + 1)

    @property
    def active(self) -> bool:
        """Whether anything is written."""
        return self._writer is not None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add values of one step."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def __enter__(self) -> "Events":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
