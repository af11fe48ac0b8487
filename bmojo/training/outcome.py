"""How a run ended, and what it then shows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bmojo.training.config import Evaluation
from bmojo.training.report import accuracy_table
from bmojo.training.rundir import RunDir


@dataclasses.dataclass(frozen=True)
class Outcome:
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
) -> Outcome:
    """Say that there is nothing left to do, and show what came of it."""
    message = (
        f"{run.path}: this run is finished ({summary['step']} steps); start over with --fresh, "
        "or choose another directory with --run-dir"
    )
    console.print(message, highlight=False, soft_wrap=True)
    print_results(run, summary, evaluations, console)
    return Outcome("finished", summary["step"], 0, message, summary)


def print_results(
    run: RunDir, summary: dict[str, Any], evaluations: Sequence[Evaluation], console: Console
) -> None:
    """Show the final metrics, accuracy beside chance, and where the figures are."""
    final = summary["final"]
    console.print(
        f"training loss {final['loss']:.4f}, accuracy {final['accuracy']:.4f}", highlight=False
    )
    if summary["evaluations"]:
        console.print(accuracy_table(summary["evaluations"], evaluations))
    for path in (run.curve, run.accuracy):
        if path.exists():
            console.print(str(path), highlight=False, soft_wrap=True)
