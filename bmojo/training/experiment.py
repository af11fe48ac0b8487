"""An experiment: the configs of a run, the rules that they keep, and its curriculum's counts."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from bmojo.errors import suggestion
from bmojo.model import ModelConfig
from bmojo.training import config
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.run_dir import RunError
from bmojo.training.sharding import ONE_DEVICE, Layout, MeshConfig


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a training run is made from, with the rules that hold for any use of it.

    Attributes:
      model: to train.
      optimizer: of the model's parameters.
      trainer: seed, logging, evaluation and checkpoints.
      curriculum: stages, one after the other.
      evaluations: measurements during training and at its end.
      mesh: of the devices; None: one device.
      max_steps: no stage takes more steps than this, for trying a config out; None: as it says.
      max_batches: the same for the batches of evaluations.
    """

    model: ModelConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    curriculum: tuple[Stage, ...]
    evaluations: tuple[Evaluation, ...] = ()
    mesh: MeshConfig | None = None
    max_steps: int | None = None
    max_batches: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_batches"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.curriculum:
            raise ValueError("curriculum: needs at least one stage")
        for field, parts in (("curriculum", self.curriculum), ("evaluations", self.evaluations)):
            for part in parts:
                if part.data.vocab_size > getattr(self.model, "vocab_size", math.inf):
                    raise ValueError(
                        f"{field}: its data have {part.data.vocab_size} tokens, the model only "
                        f"{self.model.vocab_size}; raise Model.vocab_size"
                    )
        names = [evaluation.name for evaluation in self.evaluations]
        if len(set(names)) < len(names):
            raise ValueError(f"evaluations: names must differ, got {', '.join(names)}")
        self._at_most("curriculum", "steps", self.max_steps)
        self._at_most("evaluations", "batches", self.max_batches)

    def _at_most(self, parts: str, field: str, limit: int | None) -> None:
        if limit is not None:
            cut = [
                part
                if getattr(part, field) <= limit
                else dataclasses.replace(part, **{field: limit})
                for part in getattr(self, parts)
            ]
            object.__setattr__(self, parts, tuple(cut))


def check(experiment: Experiment, layout: Layout = ONE_DEVICE) -> None:
    """Check that the parts of a run fit each other, and the mesh; RunError names the field."""
    trainer = experiment.trainer
    for stage in experiment.curriculum:
        try:
            config.check_segments("Trainer", trainer.segments_per_document, stage.data)
        except ValueError as error:
            raise RunError(str(error)) from None
        if stage.batch_size % trainer.accumulate:
            raise RunError(
                f"Trainer.accumulate: {trainer.accumulate} does not divide the "
                f"{stage.batch_size} rows of Stage.batch_size; give a divisor"
            )
        length = stage.data.length // trainer.segments_per_document
        layout.check("Stage", length, stage.batch_size // trainer.accumulate)
    for e in experiment.evaluations:
        layout.check("Evaluation", e.data.length // e.segments_per_document)
    if trainer.best is None:
        return
    wanted, (name, field) = trainer.best, config.best_parts(trainer.best)
    data: dict[str, Any] = {e.name: e.data for e in experiment.evaluations}
    if name not in data:
        raise RunError(
            f"Trainer.best: {wanted!r}: no evaluation is called {name!r}; {suggestion(name, data)}"
        )
    if field == "bits_per_byte" and getattr(data[name], "bytes_per_token", None) is None:
        raise RunError(
            f"Trainer.best: {wanted!r}: {name!r} is not of text and has no bits_per_byte; take "
            f"{name}/loss"
        )


class Curriculum:
    """Steps, examples and tokens of stages one after the other; no example is used twice.

    A sequence is cut into ``segments`` optimizer steps; ``ends`` are the steps done after each
    stage, ``total`` those of all, of which the last ``extra`` follow the ``planned`` ones.
    """

    def __init__(self, stages: Sequence[Stage], segments: int = 1, extra: int = 0):
        *before, last = stages
        self.planned = sum(stage.steps for stage in stages)
        self.stages = (*before, dataclasses.replace(last, steps=last.steps + extra))
        self.segments = segments
        self.ends = list(itertools.accumulate(stage.steps for stage in self.stages))
        self.total = self.ends[-1]

    def begin(self, stage: int) -> int:
        """Steps done before a stage."""
        return self.ends[stage] - self.stages[stage].steps

    def examples(self, stage: int) -> int:
        """Examples read before a stage; the rest of one that a stage ends within is left out."""
        return sum(-(-s.steps // self.segments) * s.batch_size for s in self.stages[:stage])

    def tokens(self, step: int) -> int:
        """Tokens read in all steps up to one."""
        seen = 0
        for index, stage in enumerate(self.stages):
            steps = min(max(step - self.begin(index), 0), stage.steps)
            seen += steps * stage.batch_size * (stage.data.length // self.segments)
        return seen


def run_tokenizer(experiment: Experiment) -> Any | None:
    """The tokenizer of an experiment's data; None for tasks of bare tokens."""
    return getattr(text_of(experiment), "tokenizer", None)


def text_of(experiment: Experiment) -> Any:
    """The data of the last stage of text; of the first stage if there is no text."""
    stages = [stage.data for stage in experiment.curriculum]
    return next((data for data in reversed(stages) if hasattr(data, "documents")), stages[0])
