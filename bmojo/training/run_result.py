"""How a run ended, and what it then shows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from bmojo.data.pipeline import Batch
from bmojo.training.config import Evaluation
from bmojo.training.report import result_tables
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
    """Say that there is nothing left to do, and show what came of it."""
    message = (
        f"{run.path}: this run is finished ({summary['step']} steps); start over with --fresh, "
        "or choose another directory with --run-dir"
    )
    console.print(message, highlight=False, soft_wrap=True)
    print_results(run, summary, evaluations, console)
    return RunResult("finished", summary["step"], 0, message, summary)


def not_finite(run: RunDir, error: NotFiniteError, saved: int | None, process: int = 0) -> str:
    """Keep the batch, and say what happened and what to do.

    Args:
      run: where the batch is kept.
      error: what was found.
      saved: step of the newest checkpoint, if there is one.
      process: whose rows of the batch these are.
    """
    part = f"_process{process}" if process else ""
    path = run.path / f"bad_batch_step{error.step}{part}.npz"
    np.savez(path, **error.batch)  # type: ignore[arg-type]
    kept = "nothing was saved before" if saved is None else f"the checkpoint of step {saved} stays"
    return (
        f"step {error.step}: loss {error.metrics['loss']}, gradient norm "
        f"{error.metrics['grad_norm']}; the batch is in {path}, {kept}; lower "
        "Optimizer.learning_rate or Optimizer.clip and start over with --fresh"
    )


def print_results(
    run: RunDir, summary: dict[str, Any], evaluations: Sequence[Evaluation], console: Console
) -> None:
    """Show the final metrics, accuracy beside chance, and where the figures are."""
    final = summary["final"]
    console.print(
        f"training loss {final['loss']:.4f}, accuracy {final['accuracy']:.4f}", highlight=False
    )
    for table in result_tables(summary["evaluations"], evaluations):
        console.print(table)
    for path in (run.curve, run.accuracy):
        if path.exists():
            console.print(str(path), highlight=False, soft_wrap=True)
