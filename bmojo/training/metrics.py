"""Metrics of a run: JSON lines that survive a kill, TensorBoard events, the best evaluation."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.files import write_atomically
from bmojo.training.config import MEASURED, best_parts
from bmojo.training.run_dir import RunDir, RunError

Record = dict[str, Any]

DIGITS = 7
AVERAGED = ("loss", "accuracy", "grad_norm")
LOWER_IS_BETTER = {"loss": True, "bits_per_byte": True, "accuracy": False}


def dumps(record: Record) -> str:
    """One line of JSON: floats to seven significant digits, keys in the order given."""
    return json.dumps({key: rounded(value) for key, value in record.items()}, allow_nan=False)


def rounded(value: Any) -> Any:
    """A value as a line holds it; None if it is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def read_metrics(path: Path) -> list[Record]:
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


class MetricsWriter(contextlib.ExitStack):
    """metrics.jsonl, speed.jsonl and events of a run that goes on from ``step``.

    Lines that were written after that step are taken out.

    Args:
      run: the directory.
      step: steps done.
      window: metrics since the last line, from the checkpoint.
      tensorboard: also write events, if tensorboardX is installed.
      writes: false in all processes of a run but one; they write nothing.
    """

    def __init__(
        self,
        run: RunDir,
        step: int,
        window: list[list[float] | None],
        tensorboard: bool,
        writes: bool = True,
    ):
        super().__init__()

        def stays(record: Record) -> bool:
            at = record["step"]
            return at < step or (at == step and "evaluation" not in record)

        def lines(path: Path) -> Lines:
            if writes:
                cut(path, stays)
            return self.enter_context(Lines(path if writes else None))

        self.window = window
        self.tokens_per_second: float | None = None
        self._mark: tuple[float, int] | None = None
        self._metrics, self._speed = lines(run.metrics), lines(run.speed)
        self._events = self.enter_context(Events(run.tensorboard, step, tensorboard and writes))
        for path, add in ((run.metrics, self._train_events), (run.speed, self._speed_events)):
            for record in read_metrics(path) if step and tensorboard and writes else []:
                if record["step"] == step:
                    add(record)

    def step(self, step: int, metrics: dict[str, float] | None, tokens: int) -> None:
        """Take in the metrics of a step that has just ended; None: its update was skipped."""
        self.window.append(None if metrics is None else [metrics[name] for name in AVERAGED])
        now = time.monotonic()
        if self._mark is None:
            self._mark = (now, step)
        elif now > self._mark[0]:
            since, first = self._mark
            self.tokens_per_second = (step - first) * tokens / (now - since)

    def pause(self) -> None:
        """Measure speed anew: a compilation, a checkpoint or an evaluation came between."""
        self._mark = None

    def train(
        self, step: int, seconds: float, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        """Write the means since the last line, between other values of the same line.

        Skipped steps are in none of them; if there was no other, the means are null.
        """
        taken = [values for values in self.window if values is not None]
        means = np.asarray(taken, np.float64).mean(axis=0).tolist() if taken else [math.nan] * 3
        self.window = []
        record = {"step": step, **before, **dict(zip(AVERAGED, means, strict=True)), **after}
        self._metrics.write(record)
        self._train_events(record)
        speed = {"step": step, "tokens_per_second": self.tokens_per_second, "seconds": seconds}
        self._speed.write(speed)
        self._speed_events(speed)

    def _train_events(self, record: Record) -> None:
        known = {f"train/{k}": v for k, v in record.items() if k != "step" and v is not None}
        self._events.write(record["step"], known)

    def _speed_events(self, record: Record) -> None:
        name = "tokens_per_second"
        if record[name] is not None:
            self._events.write(record["step"], {f"speed/{name}": record[name]})

    def evaluation(self, step: int, rows: Sequence[Record]) -> None:
        """Write the rows of an evaluation."""
        for row in rows:
            self._metrics.write({"step": step, **row})
            name, group = row["evaluation"], "all" if row["group"] is None else row["group"]
            measured = {field: row[field] for field in MEASURED if field in row}
            self._events.write(step, {f"{name}/{k}/{group}": v for k, v in measured.items()})

    def sync(self) -> None:
        """Wait until all lines of metrics are on the disk."""
        self._metrics.sync()


class Lines(contextlib.ExitStack):
    """A file to which whole lines are added; each reaches the system as soon as it is written.

    Args:
      path: of the file; None: nothing is written.
    """

    def __init__(self, path: Path | None):
        super().__init__()
        self._file: Any = path and self.enter_context(open(path, "ab", buffering=0))

    def write(self, record: Record) -> None:
        """Add a line.

        Raises:
          OSError: not all of it could be written; its part in the file will not be read.
        """
        line = dumps(record).encode() + b"\n" if self._file else b""
        while line:  # a disk that fills up takes a part, and refuses the rest
            line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self._file:
            os.fsync(self._file.fileno())


class Events(contextlib.ExitStack):
    """Scalars for TensorBoard; writes nothing if switched off or tensorboardX is absent.

    They are written by the thread that calls, so that a full disk is an error there.

    Args:
      path: directory of the event files.
      step: events of it and of later steps, left by a run that was cut off, are hidden.
      enabled: false to write nothing.

    Raises:
      OSError: they cannot be written.
    """

    def __init__(self, path: Path, step: int, enabled: bool = True):
        super().__init__()
        self._writer: Any = None
        if enabled:
            try:
                from tensorboardX.proto.event_pb2 import SessionLog
                from tensorboardX.record_writer import RecordWriter
            except ImportError:
                return
            path.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(path / _next_name(path)))
            self.callback(self._writer.close)
            self._add(file_version="brain.Event:2")
            self._add(step=step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add values of one step."""
        if self._writer is not None:
            from tensorboardX.summary import scalar

            for name, value in scalars.items():
                self._add(step=step, summary=scalar(name, value))
            self._writer.flush()

    def _add(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())


def _next_name(path: Path) -> str:
    """Of a new event file, behind all there are: TensorBoard reads them in this order."""
    prefix = "events.out.tfevents."
    there = [entry.name.removeprefix(prefix).split(".")[0] for entry in path.glob(f"{prefix}*")]
    number = max((int(name) for name in there if name.isdecimal()), default=0) + 1
    return f"{prefix}{number:010d}.{os.getpid()}"


class Best:
    """The best of evaluations that are taken in order of their steps.

    Numbers count as ``metrics.jsonl`` has them, so that a run that was interrupted finds the
    same one. The first of equal ones stays.

    Args:
      wanted: 'evaluation/field', such as 'recall/accuracy'; None: nothing is the best.

    Attributes:
      step: of the best evaluation so far; None: there was none.
      value: measured there.
    """

    def __init__(self, wanted: str | None):
        self._wanted = None if wanted is None else best_parts(wanted)
        self.step: int | None = None
        self.value: float | None = None

    def take(self, found: Iterable[Record]) -> bool:
        """Take records of any kind; true if one of them is the best evaluation so far."""
        if self._wanted is None:
            return False
        name, field = self._wanted
        better = False
        for record in found:
            if record.get("evaluation") != name or record.get("group") is not None:
                continue
            value = rounded(record.get(field))
            if value is None:  # it was not finite
                continue
            gain = 0.0 if self.value is None else value - self.value
            if self.value is None or (gain < 0 if LOWER_IS_BETTER[field] else gain > 0):
                self.step, self.value, better = record["step"], value, True
        return better


def best_of(metrics: Path, wanted: str | None) -> Best:
    """The best evaluation in ``metrics.jsonl``."""
    best = Best(wanted)
    best.take(read_metrics(metrics))
    return best
