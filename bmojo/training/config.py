"""Configs of a training run: stages, optimizer, trainer, evaluations; each checks its fields."""

import dataclasses
import math
import operator
import typing
from typing import Any, Literal

from bmojo.errors import type_problem

LARGEST_SEED = 2**32 - 1  # JAX takes no more than the last 32 bits of a seed
MEASURED = ("accuracy", "loss", "bits_per_byte")  # fields that an evaluation can have


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a curriculum: so many steps on one kind of data.

    Attributes:
      data: a task config, such as ``MQARConfig``; see :mod:`bmojo.data`.
      steps: optimizer steps.
      batch_size: examples a step.
    """

    data: Any
    steps: int
    batch_size: int

    def __post_init__(self):
        _check_task(self)
        _at_least(1, self, "steps", "batch_size")


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
        _check_task(self)
        if not self.name:
            raise ValueError("Evaluation.name: is empty; give a short string, such as 'recall'")
        _at_least(1, self, "batches", "batch_size", "segments_per_document")
        _at_least(0, self, "seed")
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
      final_learning_rate: where the schedule ends, for every group; 'constant' has no end.
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
    schedule: Literal["cosine", "linear", "constant"] = "cosine"

    def __post_init__(self):
        check_types(self)
        rates = ("learning_rate", "ssm_learning_rate", "attention_learning_rate")
        _within(self, *rates, "clip", above=0)
        _within(self, "b1", "b2", "warmup", least=0, below=1)
        _within(self, "weight_decay", "final_learning_rate", least=0)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, without in (
            ("final_learning_rate", self.schedule == "constant" and "schedule = 'constant'"),
            ("decay_embeddings", self.weight_decay == 0 and "weight_decay = 0"),
        ):
            if without and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"Optimizer.{name}: {getattr(self, name)} has no effect with "
                    f"Optimizer.{without}; leave one of them out"
                )


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How often a run logs, measures and saves.

    Attributes:
      seed: of the initial parameters and of the training examples.
      accumulate: parts that each batch is cut into by rows, run one after the other; one
        update with the gradient of all. The memory of a step is that of a part.
      segments_per_document: truncated backpropagation through time: each training sequence is
        cut into so many equal segments, one optimizer step each; the model's state is carried
        from one to the next, without gradient. The memory of a step is that of a segment.
      on_nonfinite: what happens where the loss or the gradient is infinite or not a number:
        'stop', keeping the batch, or 'skip' the update and count it; ten in a row stop too.
      log_every: steps between two lines of ``metrics.jsonl``; a line holds means over their
        targets.
      eval_every: steps between two evaluations; there is always one at the end. 0: only that.
      checkpoint_every: steps between two checkpoints; there is always one at the end.
      keep: checkpoints kept, the newest.
      best: what the best evaluation is chosen by: 'evaluation/field', such as 'recall/accuracy'.
        The checkpoint of the best one so far is kept beyond ``keep``. The highest accuracy is the
        best, the lowest loss or bits_per_byte. None: only the newest are kept.
      tensorboard: also write TensorBoard events, if tensorboardX is installed.
      compilation_cache: keep compiled programs under ``~/.cache/bmojo``, or where the
        environment variable BMOJO_CACHE_DIR says.
      plots: draw ``curve.png`` and ``accuracy.png`` at the end.
      init_from: where the initial parameters come from: 'RUN', 'RUN@STEP' or 'RUN@best', a run's
        checkpoint, or 'hf:FOLDER', a model of Hugging Face. By name; what it lacks is drawn from
        the seed. Read once, at the start. None: all are drawn.
      init_names: pairs of a pattern of names there and the name here, or None to leave them out;
        the first that fits counts, others stay as they are. One ``*`` stands for any text, as in
        ``(('blocks.sublayers.0.*', 'blocks.sublayers.2.*'), ('head.*', None))``.
      extra_steps: steps after the curriculum, on the data of its last stage from where it stopped,
        with the learning rates that the schedule ended with. A run goes on with more of them.
    """

    seed: int = 0
    accumulate: int = 1
    segments_per_document: int = 1
    on_nonfinite: Literal["stop", "skip"] = "stop"
    log_every: int = 10
    eval_every: int = 100
    checkpoint_every: int = 200
    keep: int = 2
    best: str | None = None
    tensorboard: bool = True
    compilation_cache: bool = True
    plots: bool = True
    init_from: str | None = None
    init_names: tuple[Any, ...] = ()
    extra_steps: int = 0

    def __post_init__(self):
        check_types(self)
        _check_names(self.init_names, self.init_from)
        if self.best is not None:
            best_parts(self.best)
        _at_least(0, self, "seed", "eval_every", "extra_steps")
        _at_least(1, self, "accumulate", "segments_per_document", "log_every")
        _at_least(1, self, "checkpoint_every", "keep")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"Trainer.seed: {self.seed} is too large; give at most {LARGEST_SEED}")


def _check_names(pairs: tuple[Any, ...], init_from: str | None) -> None:
    """Refuse patterns of names that are no pairs of texts, or that nothing is taken by."""
    if init_from is not None and not init_from.removeprefix("hf:"):
        raise ValueError("Trainer.init_from: names nothing; give RUN, RUN@STEP or hf:FOLDER")
    if pairs and init_from is None:
        raise ValueError("Trainer.init_names: has no effect without Trainer.init_from; set both")
    for pair in pairs:
        good = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not good or not isinstance(pair[1], str | None):
            raise ValueError(
                f"Trainer.init_names: {pair!r} is no pair; write (PATTERN, NAME) or (PATTERN, None)"
            )
        if max(text.count("*") for text in pair if text is not None) > 1:
            raise ValueError(f"Trainer.init_names: {pair!r} has two *; write one at most")
        if "*" in (pair[1] or "") and "*" not in pair[0]:
            raise ValueError(f"Trainer.init_names: {pair!r}: the pattern has no *; write one there")


def best_parts(best: str) -> tuple[str, str]:
    """Evaluation and field of ``Trainer.best``; ValueError if it has not both."""
    evaluation, slash, field = best.rpartition("/")
    if not (evaluation and slash and field in MEASURED):
        raise ValueError(
            f"Trainer.best: {best!r} is not 'evaluation/field'; the fields are "
            f"{', '.join(MEASURED)}, as in 'recall/accuracy'"
        )
    return evaluation, field


def check_segments(name: str, segments: Any, data: Any) -> None:
    """Refuse a number of segments that does not divide the data's length."""
    if data.length % segments:
        raise ValueError(
            f"{name}.segments_per_document: {segments} does not divide the {data.length} tokens "
            f"of {type(data).__name__}; give a divisor, or another length"
        )


def _check_task(config: Any) -> None:
    task = config.data
    known = all(hasattr(task, member) for member in ("source", "length", "vocab_size"))
    if isinstance(task, type) or not known:
        raise TypeError(
            f"{_name(config)}.data: {task!r} is not a task config; give one such as @MQAR() "
            "(with the parentheses)"
        )
    check_types(config)


def check_types(config: Any) -> None:
    """Check every field of a config class by its annotation; TypeError names the field."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        problem = type_problem(getattr(config, field.name), hints[field.name])
        if problem is not None:
            remedy = "" if ";" in problem else "; give one"
            raise TypeError(f"{_name(config)}.{field.name}: {problem}{remedy}")


def _name(config: Any) -> str:
    return type(config).__name__.removesuffix("Config")


def _at_least(least: int, config: Any, *fields: str) -> None:
    for field in fields:
        if (value := getattr(config, field)) < least:
            where = f"{_name(config)}.{field}"
            raise ValueError(f"{where}: {value} is too small; give at least {least}")


def _within(config: Any, *fields: str, **bounds: float) -> None:
    """Refuse numbers that are not finite or outside ``above``, ``least`` and ``below``."""
    kinds = {
        "above": (operator.gt, "above"),
        "least": (operator.ge, "at least"),
        "below": (operator.lt, "below"),
    }
    for field in fields:
        value = getattr(config, field)
        within = value is None or all(kinds[kind][0](value, b) for kind, b in bounds.items())
        if not within or (value is not None and not math.isfinite(value)):
            wanted = " and ".join(f"{kinds[kind][1]} {bound}" for kind, bound in bounds.items())
            where = f"{_name(config)}.{field}"
            raise ValueError(f"{where}: {value} is out of range; give a number {wanted}")
