"""The arithmetic of a curriculum: where its stages end, what was read until a step."""

import itertools
from collections.abc import Sequence
from typing import Any

from bmojo.training.checkpoints.best import check_best
from bmojo.training.config import Evaluation, Stage, TrainerConfig, check_segments
from bmojo.training.mesh import Layout
from bmojo.training.run_dir import RunError


class Curriculum:
    """Stages one after the other, each example used once, each in ``segments`` steps.

    Args:
      curriculum: the stages.
      segments: optimizer steps that a sequence is cut into.
    """

    def __init__(self, curriculum: Sequence[Stage], segments: int = 1):
        self.stages, self.segments = tuple(curriculum), segments
        self.ends = list(itertools.accumulate(stage.steps for stage in curriculum))
        self.total = self.ends[-1]

    def begin(self, stage: int) -> int:
        """Steps done before a stage."""
        return self.ends[stage] - self.stages[stage].steps

    def examples(self, stage: int) -> int:
        """Examples read before a stage; one that a stage ends within is not gone on with."""
        return sum(-(-s.steps // self.segments) * s.batch_size for s in self.stages[:stage])

    def tokens(self, step: int) -> int:
        """Tokens read in all steps up to one."""
        seen = 0
        for index, stage in enumerate(self.stages):
            steps = min(max(step - self.begin(index), 0), stage.steps)
            seen += steps * stage.batch_size * (stage.data.length // self.segments)
        return seen


def check(
    model_config: Any,
    trainer: TrainerConfig,
    curriculum: Sequence[Stage],
    evaluations: Sequence[Evaluation],
    layout: Layout | None = None,
) -> None:
    """See that the configs of a run fit each other, and the mesh.

    Raises:
      RunError: they do not.
    """
    if not curriculum:
        raise RunError("curriculum: it has no stages; give at least one Stage")
    for stage in curriculum:
        try:
            check_segments("Trainer", trainer.segments_per_document, stage.data)
        except ValueError as error:
            raise RunError(str(error)) from None
        if stage.batch_size % trainer.accumulate:
            raise RunError(
                f"Trainer.accumulate: {trainer.accumulate} does not divide the "
                f"{stage.batch_size} rows of Stage.batch_size; give a divisor"
            )
        if layout is not None:
            rows, length = stage.batch_size // trainer.accumulate, stage.data.length
            layout.check("Stage", rows, length // trainer.segments_per_document)
    if layout is not None:
        for e in evaluations:
            layout.check_length("Evaluation", e.data.length // e.segments_per_document)
    names = [evaluation.name for evaluation in evaluations]
    for name in names:
        if names.count(name) > 1:
            raise RunError(f"evaluations: two are called {name!r}; give each its own name")
    check_best(trainer.best, evaluations)
    vocab_size = getattr(model_config, "vocab_size", None)
    for data in [stage.data for stage in curriculum] + [e.data for e in evaluations]:
        if vocab_size is not None and data.vocab_size > vocab_size:
            raise RunError(
                f"Model.vocab_size: {vocab_size} tokens do not hold the {data.vocab_size} of "
                f"{type(data).__name__}; raise it to {data.vocab_size}"
            )
