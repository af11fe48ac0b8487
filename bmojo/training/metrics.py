"""Metrics of a run: JSON lines that survive a kill, TensorBoard events, the best evaluation."""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.files import write_atomically
from bmojo.training.config import MEASURED, best_parts
from bmojo.training.run_dir import RunDir, RunError

Record = dict[str, Any]
Mark = dict[str, Any]

DIGITS = 7
AVERAGED = ("loss", "accuracy", "grad_norm")
COUNT = "count"


def rounded(value: Any) -> Any:
    """A value as a line holds it: floats to seven significant digits, None if not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def read_metrics(path: Path) -> list[Record]:
    """All whole lines of a file, RunError if one is no record; one that was cut off is left out."""
    return [record for _, record in _lines(path)]


def _lines(path: Path, end: int | None = None) -> Iterator[tuple[bytes, Record]]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes()[:end].splitlines(keepends=True), start=1):
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


def verify_metrics(run: RunDir) -> None:
    """Compare ``metrics.jsonl`` with what the newest checkpoint of a run knows of it.

    Raises:
      RunError: the records are lost, or others than those that were written.
    """
    folders = run.checkpoints.iterdir() if run.checkpoints.is_dir() else ()
    step = max((int(folder.name) for folder in folders if folder.name.isdecimal()), default=0)
    try:
        meta = run.checkpoints / str(step) / "meta" / "metadata"  # as Orbax lays JSON down
        mark = json.loads(meta.read_bytes())["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # an earlier version's, or damaged, which its hashes tell
    if mark is not None and not _as_marked(run.metrics, mark)[0]:
        raise RunError(
            f"{run.metrics}: its records up to step {step} are not those that were written "
            "(SHA-256); put the file back from a copy"
        )


def check_metrics(path: Path, mark: Mark, step: int) -> str | None:
    """Compare a file with what a checkpoint knows of it; a line about lost records, or None.

    Raises:
      RunError: its records are not those that were written.
    """
    same, content = _as_marked(path, mark)
    if same:
        return None
    if not content:
        return f"{path}: the records up to step {step} are lost; the run goes on without them"
    raise RunError(
        f"{path}: its records up to step {step} are not those that were written (SHA-256); put the "
        "file back from a copy, or delete it, and the run goes on without them"
    )


def _as_marked(path: Path, mark: Mark) -> tuple[bool, bytes]:
    """Whether a file begins with the records that a checkpoint knows, and this part of it."""
    content = path.read_bytes()[: mark["bytes"]] if path.exists() else b""
    return hashlib.sha256(content).hexdigest() == mark["sha256"], content


class MetricsWriter(contextlib.ExitStack):
    """metrics.jsonl, speed.jsonl and events of a run that goes on from ``step``.

    Lines that were written after that step, or behind ``mark``, are taken out. ``window`` has the
    metrics since the last line; ``tensorboard`` asks for events, ``writes`` is false in all
    processes but one.
    """

    def __init__(
        self,
        run: RunDir,
        step: int,
        window: list[list[float] | None],
        tensorboard: bool,
        writes: bool = True,
        mark: Mark | None = None,
    ):
        super().__init__()

        def open_lines(path: Path, end: int | None = None) -> Lines:
            if writes and path.exists():
                kept = [line for line, record in _lines(path, end) if _stays(record, step)]
                write_atomically(path, b"".join(kept))
            return self.enter_context(Lines(path if writes else None))

        self.window = window
        self.tokens_per_second: float | None = None
        self._since: tuple[float, int] | None = None
        self._evaluated: tuple[int, Mark | None] = (-1, None)
        self._metrics = open_lines(run.metrics, None if mark is None else mark["bytes"])
        self._speed = open_lines(run.speed)
        self._events = self.enter_context(Events(run.tensorboard, step, tensorboard and writes))
        # The events of the step itself are hidden too, as its evaluation is taken again.
        for path, add in ((run.metrics, self._train_events), (run.speed, self._speed_events)):
            for record in read_metrics(path) if step and tensorboard and writes else []:
                if record["step"] == step:
                    add(record)

    def step(self, step: int, metrics: dict[str, float] | None, tokens: int) -> None:
        """Take in the metrics of a step that has just ended; None: its update was skipped."""
        row = None if metrics is None else [metrics[name] for name in (*AVERAGED, COUNT)]
        self.window.append(row)
        now = time.monotonic()
        if self._since is None:
            self._since = (now, step)
        elif now > self._since[0]:
            since, first = self._since
            self.tokens_per_second = (step - first) * tokens / (now - since)

    def pause(self) -> None:
        """Measure speed anew: a compilation, a checkpoint or an evaluation came between."""
        self._since = None

    def train(
        self, step: int, seconds: float, before: dict[str, Any], after: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the means since the last line, between other values of the same line; the means.

        Loss and accuracy are means over targets, the norm over steps. Skipped steps and those
        without a target are in none of them; if there was no other, the means are null.
        """
        rows = [(*row, 1.0)[:4] for row in self.window if row is not None]  # earlier ones had three
        taken = np.asarray([row for row in rows if row[3]], np.float64).T
        means = [math.nan] * 3
        if taken.size:
            means = [*np.average(taken[:2], axis=1, weights=taken[3]).tolist(), taken[2].mean()]
        self.window = []
        record = {"step": step, **before, **dict(zip(AVERAGED, means, strict=True)), **after}
        self._metrics.write(record)
        self._train_events(record)
        speed = {"step": step, "tokens_per_second": self.tokens_per_second, "seconds": seconds}
        self._speed.write(speed)
        self._speed_events(speed)
        return {name: rounded(record[name]) for name in AVERAGED}

    def _train_events(self, record: Record) -> None:
        known = {f"train/{k}": v for k, v in record.items() if k != "step" and v is not None}
        self._events.write(record["step"], known)

    def _speed_events(self, record: Record) -> None:
        name = "tokens_per_second"
        if record[name] is not None:
            self._events.write(record["step"], {f"speed/{name}": record[name]})

    def evaluation(self, step: int, rows: Sequence[Record]) -> None:
        """Write the rows of an evaluation."""
        self._evaluated = (step, self._metrics.mark())
        for row in rows:
            self._metrics.write({"step": step, **row})
            name, group = row["evaluation"], "all" if row["group"] is None else row["group"]
            measured = {field: row[field] for field in MEASURED if field in row}
            self._events.write(step, {f"{name}/{k}/{group}": v for k, v in measured.items()})

    def mark(self, step: int) -> Mark | None:
        """Of the lines, all on the disk, that a run keeps which goes on from ``step``."""
        now, (evaluated, before) = self._metrics.mark(), self._evaluated
        return before if evaluated == step else now


def _stays(record: Record, step: int) -> bool:
    """Whether a run that goes on from ``step`` keeps a record; evaluations of it are due again."""
    return record["step"] < step or (record["step"] == step and "evaluation" not in record)


class Lines(contextlib.ExitStack):
    """A file to which whole lines are added, unbuffered; without a path, nothing is written."""

    def __init__(self, path: Path | None):
        super().__init__()
        self._file: Any = None
        if path is not None:
            self._path, self._file = path, self.enter_context(open(path, "a+b", buffering=0))
            content = path.read_bytes()
            self._bytes, self._sha256 = len(content), hashlib.sha256(content)

    def write(self, record: Record) -> None:
        """Add a line; if that raises OSError, its part in the file will not be read."""
        if self._file:
            shown = {key: rounded(value) for key, value in record.items()}
            line = json.dumps(shown, allow_nan=False).encode() + b"\n"
            self._bytes += len(line)
            self._sha256.update(line)
            while line:  # a disk that fills up takes a part, and refuses the rest
                line = line[self._file.write(line) :]

    def mark(self) -> Mark | None:
        """Length and hash of the lines, once they are on the disk; a lost file is written again."""
        if self._file is None:
            return None
        if not self._path.exists():
            self._file.seek(0)
            write_atomically(self._path, self._file.read())
            self._file = self.enter_context(open(self._path, "a+b", buffering=0))
        os.fsync(self._file.fileno())
        return {"bytes": self._bytes, "sha256": self._sha256.hexdigest()}


class Events(contextlib.ExitStack):
    """Scalars for TensorBoard; writes nothing if switched off or tensorboardX is absent.

    They are written by the thread that calls, so that a full disk is an error there. Those of
    ``step`` and of later steps, left by a run that was cut off, are hidden.
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
    same one. The first of equal ones stays. ``wanted`` is ``Trainer.best``; ``step`` is that of
    the best so far, ``value`` what was measured there, None if there was none.
    """

    def __init__(self, wanted: str | None):
        self._wanted = None if wanted is None else best_parts(wanted)
        self.step: int | None = None
        self.value: float | None = None

    def take(self, found: Iterable[Record]) -> bool:
        """Take records of any kind; true if one of them is the best evaluation so far."""
        if self._wanted is None:
            return False
        (name, field), better = self._wanted, False
        for record in found:
            if record.get("evaluation") != name or record.get("group") is not None:
                continue
            value = rounded(record.get(field))
            if value is None:  # it was not finite
                continue
            gain = math.inf if self.value is None else value - self.value
            if self.value is not None and field != "accuracy":  # the lowest is the best
                gain = -gain
            if gain > 0:
                self.step, self.value, better = record["step"], value, True
        return better


def best_of(run: RunDir, wanted: str | None) -> Best:
    """The best evaluation in ``metrics.jsonl``; RunError if these are not the records written."""
    best = Best(wanted)
    if wanted is not None:
        verify_metrics(run)
        best.take(read_metrics(run.metrics))
    return best
