"""What a training run can be told: stages, optimizer, trainer, evaluations.

Every class is frozen and checks itself, so that a wrong value is named where it was
written and not where it first hurts.
"""

import dataclasses
import math
from typing import Any, Protocol, SupportsIndex

import numpy as np

__all__ = ["Evaluation", "OptimizerConfig", "Source", "Stage", "Task", "TrainerConfig"]

LARGEST_SEED = 2**32 - 1
"""JAX takes no more than the last 32 bits of a seed."""

SCHEDULES = ("cosine", "linear", "constant")


class Source(Protocol):
    """Random access to examples: ``source[i]`` is the same example whenever it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]: ...


class Task(Protocol):
    """What training needs of a data config."""

    @property
    def length(self) -> int:
        """Tokens of an example."""

    @property
    def vocab_size(self) -> int:
        """Tokens are below this number."""

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing; None where tokens are not equally likely."""

    @property
    def slices(self) -> str | None:
        """What the field ``group`` of an example counts; None: there are no groups."""

    def source(self, seed: int, split: str) -> Source:
        """The examples of a split, 'train' or 'test'."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a curriculum: so many steps on one kind of data.

    Attributes:
      data: a task config, such as ``MQARConfig``.
      steps: optimizer steps.
      batch_size: examples a step.
    """

    data: Any
    steps: int
    batch_size: int

    def __post_init__(self):
        _task("Stage", self.data)
        _integer("Stage", "steps", self.steps, 1)
        _integer("Stage", "batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A measurement on test examples, taken during training and at its end.

    The examples depend on ``seed`` alone, so that runs with different training seeds are
    measured on the same ones.

    Attributes:
      name: what tables and plots call it.
      data: a task config.
      batches: batches of test examples.
      batch_size: examples a batch.
      seed: of the test examples.
      segments_per_document: parts in which each example is read, the state carried from one to
        the next; what is measured is the same, the memory it takes is that of a part.
    """

    name: str
    data: Any
    batches: int = 4
    batch_size: int = 64
    seed: int = 0
    segments_per_document: int = 1

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(
                f"Evaluation.name: {self.name!r} is not a name; "
                "give a short string, such as 'recall'"
            )
        _task("Evaluation", self.data)
        _integer("Evaluation", "batches", self.batches, 1)
        _integer("Evaluation", "batch_size", self.batch_size, 1)
        _integer("Evaluation", "seed", self.seed, 0)
        check_segments("Evaluation", self.segments_per_document, self.data)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a warm-up, a schedule, and learning rates of its own for two groups.

    Attributes:
      learning_rate: the highest learning rate.
      ssm_learning_rate: the same for parameters of SSMs; None: ``learning_rate``.
      attention_learning_rate: the same for attention projections; None: ``learning_rate``.
      weight_decay: decoupled decay. Norm scales, biases, ``A_log``, ``D``, ``dt_bias`` and
        ``theta`` are never decayed.
      decay_embeddings: whether embedding tables are decayed too.
      b1: decay of the first moment.
      b2: decay of the second moment.
      clip: largest global norm of the gradient; None: no clipping.
      warmup: fraction of all steps in which the learning rate rises from zero.
      final_learning_rate: where the schedule ends, for every group.
      schedule: 'cosine', 'linear' or 'constant' after the warm-up.
    """

    learning_rate: float = 1e-3
    ssm_learning_rate: float | None = None
    attention_learning_rate: float | None = None
    weight_decay: float = 0.1
    decay_embeddings: bool = False
    b1: float = 0.9
    b2: float = 0.95
    clip: float | None = 1.0
    warmup: float = 0.05
    final_learning_rate: float = 1e-5
    schedule: str = "cosine"

    def __post_init__(self):
        name = "Optimizer"
        _number(name, "learning_rate", self.learning_rate, above=0)
        if self.ssm_learning_rate is not None:
            _number(name, "ssm_learning_rate", self.ssm_learning_rate, above=0)
        if self.attention_learning_rate is not None:
            _number(name, "attention_learning_rate", self.attention_learning_rate, above=0)
        _number(name, "weight_decay", self.weight_decay, least=0)
        _boolean(name, "decay_embeddings", self.decay_embeddings)
        _number(name, "b1", self.b1, least=0, below=1)
        _number(name, "b2", self.b2, least=0, below=1)
        if self.clip is not None:
            _number(name, "clip", self.clip, above=0)
        _number(name, "warmup", self.warmup, least=0, below=1)
        _number(name, "final_learning_rate", self.final_learning_rate, least=0)
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"Optimizer.schedule: {self.schedule!r} is unknown; "
                f"choose one of {', '.join(map(repr, SCHEDULES))}"
            )


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How often a run logs, measures and saves.

    Attributes:
      seed: of the initial parameters and of the training examples.
      accumulate: parts that each batch is cut into by rows, run one after the other; one
        update with the gradient of all. The memory of a step is that of a part.
      segments_per_document: truncated backpropagation through time: each training sequence is
        cut into so many segments of equal length, one optimizer step each; the model's state
        is carried from a segment to the next, without gradient. The memory of a step is that
        of a segment.
      on_nonfinite: what happens where the loss or the gradient is infinite or not a number:
        'stop', keeping the batch, or 'skip' the update and count it; ten in a row stop too.
      log_every: steps between two lines of ``metrics.jsonl``; a line holds means over them.
      eval_every: steps between two evaluations; there is always one at the end. 0: only that.
      checkpoint_every: steps between two checkpoints; there is always one at the end.
      keep: checkpoints kept.
      tensorboard: also write TensorBoard events, if tensorboardX is installed.
      compilation_cache: keep compiled programs under ``~/.cache/bmojo``, or where the
        environment variable BMOJO_CACHE_DIR says.
      plots: draw ``curve.png`` and ``accuracy.png`` at the end.
    """

    seed: int = 0
    accumulate: int = 1
    segments_per_document: int = 1
    on_nonfinite: str = "stop"
    log_every: int = 10
    eval_every: int = 100
    checkpoint_every: int = 200
    keep: int = 2
    tensorboard: bool = True
    compilation_cache: bool = True
    plots: bool = True

    def __post_init__(self):
        name = "Trainer"
        _integer(name, "seed", self.seed, 0)
        if self.seed > LARGEST_SEED:
            raise ValueError(f"{name}.seed: {self.seed} is too large; give at most {LARGEST_SEED}")
        _integer(name, "accumulate", self.accumulate, 1)
        _integer(name, "segments_per_document", self.segments_per_document, 1)
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(
                f"{name}.on_nonfinite: {self.on_nonfinite!r} is unknown; give 'stop' or 'skip'"
            )
        _integer(name, "log_every", self.log_every, 1)
        _integer(name, "eval_every", self.eval_every, 0)
        _integer(name, "checkpoint_every", self.checkpoint_every, 1)
        _integer(name, "keep", self.keep, 1)
        _boolean(name, "tensorboard", self.tensorboard)
        _boolean(name, "compilation_cache", self.compilation_cache)
        _boolean(name, "plots", self.plots)


def check_segments(name: str, segments: Any, data: Any) -> None:
    """Refuse a number of segments that does not divide the data's length."""
    _integer(name, "segments_per_document", segments, 1)
    if data.length % segments:
        raise ValueError(
            f"{name}.segments_per_document: {segments} does not divide the {data.length} tokens "
            f"of {type(data).__name__}; give a divisor, or another length"
        )


def _task(name: str, value: Any) -> None:
    missing = [part for part in ("source", "length", "vocab_size") if not hasattr(value, part)]
    if missing or isinstance(value, type):
        raise TypeError(
            f"{name}.data: {value!r} is not a task config; give one such as @MQAR() "
            "(with the parentheses)"
        )


def _integer(name: str, field: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}.{field}: {value!r} is not an integer; give one, such as {least}")
    if value < least:
        raise ValueError(f"{name}.{field}: {value} is too small; give at least {least}")


def _boolean(name: str, field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}.{field}: {value!r} is not a boolean; give True or False")


def _number(
    name: str,
    field: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}.{field}: {value!r} is not a number; give one, such as 1e-3")
    bounds = []
    if above is not None:
        bounds.append((value > above, f"above {above}"))
    if least is not None:
        bounds.append((value >= least, f"at least {least}"))
    if below is not None:
        bounds.append((value < below, f"below {below}"))
    if not math.isfinite(value) or not all(holds for holds, _ in bounds):
        wanted = " and ".join(text for _, text in bounds)
        raise ValueError(f"{name}.{field}: {value} is out of range; give a number {wanted}")
