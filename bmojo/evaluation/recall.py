"""Accuracy by group of examples, such as the number of key-value pairs in recall tasks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bmojo.training.checkpoint import restore_parameters
from bmojo.training.config import Evaluation
from bmojo.training.measure import Meter, Row
from bmojo.training.parameters import split
from bmojo.training.rundir import RunDir

__all__ = ["LoadedRun", "evaluate", "load_run"]


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A model with the parameters of a run.

    Attributes:
      model: ready to be called.
      step: training steps behind its parameters.
    """

    model: Any
    step: int


def load_run(run_dir: str | Path, model: Any) -> LoadedRun:
    """A run's newest checkpoint in a model like the one it trained.

    Args:
      run_dir: of ``bmojo train``; it is only read, and may be in use.
      model: made from the run's config; the result of ``nnx.eval_shape`` will do.

    Raises:
      RunError: there is no checkpoint, or it is not of such a model.
    """
    structure, expected = split(model)
    step, parameters = restore_parameters(RunDir(run_dir).checkpoints, expected)
    return LoadedRun(structure.merge(parameters), step)


def evaluate(model: Any, evaluations: Sequence[Evaluation]) -> list[Row]:
    """Take evaluations of a model: for each, a row by group in rising order and one over all.

    The rows are those of :meth:`bmojo.training.measure.Meter.measure`.
    """
    structure, parameters = split(model)
    rows = Meter(structure).measure(parameters, evaluations)
    assert rows is not None  # nobody asked to stop
    return rows
