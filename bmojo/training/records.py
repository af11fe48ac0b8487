"""JSON lines that survive being killed, and TensorBoard events beside them."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from bmojo.files import write_atomically
from bmojo.training.run_dir import RunError

Record = dict[str, Any]

DIGITS = 7


def dumps(record: Record) -> str:
    """One line of JSON: floats to seven significant digits, keys in the order given."""
    return json.dumps({key: rounded(value) for key, value in record.items()}, allow_nan=False)


def rounded(value: Any) -> Any:
    """A value as a line holds it; what is not finite is None."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def read(path: Path) -> list[Record]:
    """All whole lines of a file; a last line that was cut off is left out."""
    return [record for _, record in _lines(path)]


def cut(path: Path, keep: Callable[[Record], bool]) -> None:
    """Leave only the lines to keep, byte by byte as they were, in one atomic step.

    Raises:
      RunError: a whole line is no record.
    """
    if path.exists():
        write_atomically(path, b"".join(line for line, record in _lines(path) if keep(record)))


def _lines(path: Path) -> Iterator[tuple[bytes, Record]]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{path}:{number}: is no record of a run; delete the line, and the run goes on"
            ) from None
        yield line, record


class Lines:
    """A file to which whole lines are added; each reaches the system as soon as it is written."""

    def __init__(self, path: Path):
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, record: Record) -> None:
        """Add a line.

        Raises:
          OSError: not all of it could be written; what there is of it will not be read.
        """
        line = dumps(record).encode() + b"\n"
        while line:  # a disk that fills up takes a part, and refuses the rest
            line = line[self._file.write(line) :]

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

    They are written by the thread that calls, so that a full disk is an error there.

    Args:
      path: directory of the event files.
      step: events of later steps, left by a run that was cut off, are hidden.
      enabled: false to write nothing.

    Raises:
      OSError: they cannot be written.
    """

    def __init__(self, path: Path, step: int, enabled: bool = True):
        self._writer = None
        if enabled:
            try:
                from tensorboardX.proto.event_pb2 import SessionLog
                from tensorboardX.record_writer import RecordWriter
            except ImportError:
                return
            path.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(path / _next_name(path)))
            self._add(file_version="brain.Event:2")
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    @property
    def active(self) -> bool:
        """Whether anything is written."""
        return self._writer is not None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add values of one step."""
        if self._writer is not None:
            from tensorboardX.summary import scalar

            for name, value in scalars.items():
                self._add(step=step, summary=scalar(name, value))
            self._writer.flush()

    def _add(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        assert self._writer is not None
        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())

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


def _next_name(path: Path) -> str:
    """Of a new event file, behind all there are: TensorBoard reads them in this order."""
    prefix = "events.out.tfevents."
    there = [entry.name.removeprefix(prefix).split(".")[0] for entry in path.glob(f"{prefix}*")]
    number = max((int(name) for name in there if name.isdecimal()), default=0) + 1
    return f"{prefix}{number:010d}.{os.getpid()}"
