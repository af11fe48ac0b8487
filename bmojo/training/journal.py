"""What a run writes while it goes: metrics.jsonl, speed.jsonl, and events for TensorBoard."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bmojo.training import records
from bmojo.training.measure import Row
from bmojo.training.rundir import RunDir

AVERAGED = ("loss", "accuracy", "grad_norm")


class Journal(contextlib.ExitStack):
    """The files of a run that goes on from ``step``; what was written after it is taken out.

    Args:
      run: the directory.
      step: steps done.
      window: metrics since the last line, from the checkpoint.
      tensorboard: also write events, if tensorboardX is installed.
    """

    def __init__(self, run: RunDir, step: int, window: list[list[float]], tensorboard: bool):
        super().__init__()

        def stays(record: records.Record) -> bool:
            at = record["step"]
            return at < step or (at == step and "evaluation" not in record)

        records.cut(run.metrics, stays)
        records.cut(run.speed, stays)
        self.window = window
        self.tokens_per_second: float | None = None
        self._mark: tuple[float, int] | None = None
        self._metrics = self.enter_context(records.Lines(run.metrics))
        self._speed = self.enter_context(records.Lines(run.speed))
        self._events = self.enter_context(records.Events(run.tensorboard, step, tensorboard))

    def step(self, step: int, metrics: dict[str, float], tokens: int) -> None:
        """Take in the metrics of a step that has just ended."""
        self.window.append([metrics[name] for name in AVERAGED])
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
        """Write the means since the last line, between other values of the same line."""
        means = np.asarray(self.window, np.float64).mean(axis=0).tolist()
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
