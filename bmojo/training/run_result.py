"""The result of a run: finished, interrupted, or not finite."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from bmojo.console import line
from bmojo.data.pipeline import Batch
from bmojo.training.config import Evaluation
from bmojo.training.report import print_results
from bmojo.training.run_dir import RunDir

NOT_FINITE = 3
"""Exit code of a run whose loss or gradient is not a number."""


class NotFiniteError(Exception):
    """A loss or a gradient is not a finite number."""

    def __init__(self, step: int, batch: Batch, metrics: dict[str, float]):
        super().__init__(f"step {step}: {metrics}")
        self.step, self.batch, self.metrics = step, batch, metrics


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
      status: 'finished', 'interrupted' or 'not finite'.
      step: steps done.
      exit_code: 0, 128 + the signal's number, or 3.
      message: one line for the user.
      summary: what ``summary.json`` holds, if the run is finished.
    """

    status: str
    step: int
    exit_code: int
    message: str
    summary: dict[str, Any] | None = None


def already_finished(
    run: RunDir, summary: dict[str, Any], evaluations: Sequence[Evaluation], console: Console
) -> RunResult:
    """Print that there is nothing left to do, and the results."""
    message = (
        f"{run.path}: this run is finished ({summary['step']} steps); start over with --fresh, "
        "or choose another directory with --run-dir"
    )
    line(console, message)
    print_results(run, summary, evaluations, console)
    return RunResult("finished", summary["step"], 0, message, summary)


def not_finite(run: RunDir, error: NotFiniteError, saved: int | None, process: int = 0) -> str:
    """Keep the batch in the run directory; the message with the remedy.

    Args:
      run: the directory.
      error: with the batch.
      saved: step of the newest checkpoint, if there is one.
      process: index of the process that holds these rows of the batch.
    """
    part = f"_process{process}" if process else ""
    path = run.path / f"bad_batch_step{error.step}{part}.npz"
    np.savez(path, **error.batch)  # type: ignore[arg-type]
    before = (
        "nothing was saved before" if saved is None else f"the checkpoint of step {saved} stays"
    )
    return (
        f"step {error.step}: loss {error.metrics['loss']}, gradient norm "
        f"{error.metrics['grad_norm']}; the batch is in {path}, {before}; lower "
        "Optimizer.learning_rate or Optimizer.clip and start over with --fresh"
    )
