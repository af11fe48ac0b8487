"""Experiments from gin files: the names that configs may use, and the objects they make."""

from collections.abc import Sequence
from pathlib import Path

from bmojo import config
from bmojo.config.parse import display, find, read
from bmojo.data.in_context_regression import InContextRegressionConfig
from bmojo.data.induction_heads import InductionHeadsConfig
from bmojo.data.mad import (
    CompressionConfig,
    FuzzyMQARConfig,
    MemorizationConfig,
    NoisyMQARConfig,
    SelectiveCopyingConfig,
)
from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import NamedErrors
from bmojo.data.text.task import TextConfig
from bmojo.data.universal.markov import MarkovConfig
from bmojo.data.universal.programs import ProgramsConfig
from bmojo.description import describe
from bmojo.errors import ConfigError, UserError, first_line
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.protocol import check_config
from bmojo.layers.readout import ReadoutConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment, check
from bmojo.training.sharding import MeshConfig

__all__ = ["REGISTRY", "Experiment", "load", "prepare_data", "register"]


REGISTRY = config.Registry(shared_macros=("N_HEADS", "NUM_EIDETIC", "WINDOW"))
"""The names that configs may use."""

_MIXERS: tuple[type, ...] = (AttentionConfig, BMojoConfig, CanonicalSSMConfig, MLPConfig)
_MIXERS += (SSDConfig, SelectiveSSMConfig, SlidingBMojoConfig)
_TASKS: tuple[type, ...] = (CompressionConfig, FuzzyMQARConfig, InContextRegressionConfig)
_TASKS += (InductionHeadsConfig, MQARConfig, MarkovConfig, MemorizationConfig, NoisyMQARConfig)
_TASKS += (ProgramsConfig, SelectiveCopyingConfig, TextConfig)
_PARTS: tuple[type, ...] = (Evaluation, Experiment, MeshConfig, ModelConfig, OptimizerConfig)
_PARTS += (ReadoutConfig, Stage, TrainerConfig)
for _cls in (*_MIXERS, *_TASKS, *_PARTS):
    REGISTRY.register(_cls.__name__.removesuffix("Config"), _cls)


def register(name: str, cls: type) -> None:
    """Let configs name a dataclass of your own: a mixer, a task.

    A gin file that needs it says ``import my_package.my_mixer`` in its first line, and that
    module calls this function. ``cls`` is a frozen dataclass: the config of a mixer
    (:class:`bmojo.layers.protocol.MixerConfig`, with a method ``make``) or of a task (with a
    method ``source``).

    Raises:
      ValueError: the name is taken, or ``cls`` is no dataclass or lacks both methods.
    """
    if not callable(getattr(cls, "source", None)):
        check_config(name, cls)
    REGISTRY.register(name, cls)


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    overlays: Sequence[str | Path] = (),
    training: bool = False,
) -> tuple[Experiment, str]:
    """Make an experiment from a gin file.

    Args:
      path: a gin file, or a name under ``configs/``.
      overrides: 'KEY=VALUE', the last to count.
      overlays: further gin files, each overriding those before.
      training: whether its parts have to fit each other for a training.

    Returns:
      The experiment, and the text of every binding in force, which loads as an equal one.

    Raises:
      ConfigError: one line with file, line, and the nearest valid name.
    """
    bindings, _ = read([path], [])
    if bindings and not any(binding.name == "Experiment" for binding in bindings):
        shown = display(find(str(path), Path.cwd()))
        raise ConfigError(
            f"{shown}: is a part of an experiment (it binds no Experiment.model); name the "
            f"experiment first, as in: experiments/mqar.gin {path}"
        )
    loaded = config.load(REGISTRY, "Experiment", [path, *overlays], overrides)
    try:
        describe(loaded.value.model)
        if training:
            check(loaded.value)
    except (TypeError, ValueError, UserError) as error:
        raise loaded.explain(error) from None
    return loaded.value, loaded.text


def prepare_data(experiment: Experiment, training: bool = True) -> None:
    """Prepare the data that need it, and check that every part of a run has enough examples.

    Data configs that need it have a method ``prepare``. One example of each part is made, so
    that a task which cannot make any is refused before the run has a directory. Without
    ``training``, only the examples to measure on are looked at.

    Raises:
      UserError: data are missing or too short, or a task has no examples of a split.
    """
    parts: tuple[Stage | Evaluation, ...] = (*experiment.curriculum, *experiment.evaluations)
    for part in parts:
        if hasattr(part.data, "prepare"):
            part.data.prepare()
    wanted = [(s.data, experiment.trainer.seed, "train") for s in experiment.curriculum if training]
    wanted += [(e.data, e.seed, "test") for e in experiment.evaluations]
    try:
        for data, seed, split in wanted:
            NamedErrors(data.source(seed, split), (ValueError,))[0]
    except ValueError as error:
        raise UserError(str(error)) from None
    except MemoryError as error:
        raise UserError(f"data: {first_line(error)}; make them smaller") from None
    for evaluation in experiment.evaluations:
        there = len(evaluation.data.source(evaluation.seed, "test"))
        if evaluation.batches * evaluation.batch_size > there:
            raise UserError(
                f"Evaluation.batches: {evaluation.name!r} asks for {evaluation.batches} batches "
                f"of {evaluation.batch_size}, its data have {there} examples; lower batches or "
                "batch_size, or give more data"
            )
