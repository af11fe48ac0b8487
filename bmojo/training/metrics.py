"""What a run writes while it goes: metrics.jsonl, speed.jsonl, and events for TensorBoard."""

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.training import records
from bmojo.training.evaluate import Row
from bmojo.training.run_dir import RunDir

AVERAGED = ("loss", "accuracy", "grad_norm")


class MetricsWriter(contextlib.ExitStack):
    """The files of a run that goes on from ``step``; what was written after it is taken out.

    Args:
      run: the directory.
      step: steps done.
      window: metrics since the last line, from the checkpoint.
      tensorboard: also write events, if tensorboardX is installed.
      writes: false in all processes of a run but one, which take part and write nothing.
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

        def stays(record: records.Record) -> bool:
            at = record["step"]
            return at < step or (at == step and "evaluation" not in record)

        def lines(path: Path) -> records.Lines | records.Nowhere:
            if not writes:
                return records.Nowhere()
            records.cut(path, stays)
            return records.Lines(path)

        self.window = window
        self.tokens_per_second: float | None = None
        self._mark: tuple[float, int] | None = None
        self._metrics, self._speed = lines(run.metrics), lines(run.speed)
        self.callback(self._metrics.__exit__, None, None, None)
        self.callback(self._speed.__exit__, None, None, None)
        events = records.Events(run.tensorboard, step, tensorboard and writes)
        self._events = self.enter_context(events)

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
        self._events.write(step, {f"train/{k}": v for k, v in record.items() if k != "step"})
        speed = {"step": step, "tokens_per_second": self.tokens_per_second, "seconds": seconds}
        self._speed.write(speed)
        if self.tokens_per_second is not None:
            self._events.write(step, {"speed/tokens_per_second": self.tokens_per_second})

    def evaluation(self, step: int, rows: Sequence[Row]) -> None:
        """Write what was measured."""
        for row in rows:
            self._metrics.write({"step": step, **row})
            group = "all" if row["group"] is None else row["group"]
            values = {
                name: row[name] for name in ("accuracy", "loss", "bits_per_byte") if name in row
            }
            name = row["evaluation"]
            self._events.write(step, {f"{name}/{k}/{group}": v for k, v in values.items()})

    def sync(self) -> None:
        """Wait until all lines of metrics are on the disk."""
        self._metrics.sync()
