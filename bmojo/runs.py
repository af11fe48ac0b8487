"""Trained runs: config, model, parameters and tokenizer of a run directory."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from bmojo import experiment as experiments
from bmojo.data.text.tokenizers import kept_tokenizer
from bmojo.experiment import Experiment
from bmojo.training.checkpoints import restore_parameters
from bmojo.training.experiment import run_tokenizer
from bmojo.training.metrics import best_of
from bmojo.training.parameters import Parameters, Structure, outline
from bmojo.training.run_dir import RunDir, RunError


def open_run(
    path: str | Path,
    step: int | str | None = None,
    overrides: Sequence[str] = (),
    overlays: Sequence[str | Path] = (),
    dtype: str | None = None,
) -> "TrainedRun":
    """Open the directory of a run of ``bmojo train``, which may be in use.

    Only the config is read here; the checkpoint is read when the model is first asked for.

    Args:
      path: the run directory.
      step: of the checkpoint: a number, also as a string; 'best' for the best evaluation by
        ``Trainer.best``; None: the newest.
      overrides: 'KEY=VALUE' bindings over the run's config.
      overlays: further gin files over it.
      dtype: of the model's computation; None: the config's.

    Raises:
      RunError: no run is here, or the step is no step of it.
      ConfigError: the config or an override is wrong.
    """
    run = RunDir(path)
    if not run.config.is_file():
        raise RunError(f"{path}: no run is here (no config.gin); train one with bmojo train")
    experiment, text = experiments.load(run.config, overrides, overlays)
    if dtype is not None:
        model = dataclasses.replace(experiment.model, dtype=dtype)
        experiment = dataclasses.replace(experiment, model=model)
    return TrainedRun(Path(path), experiment, text, _step(Path(path), experiment, step))


def _step(path: Path, experiment: Experiment, step: int | str | None) -> int | None:
    if step is None or isinstance(step, int):
        return step
    if step.isdecimal() and len(step) < 19:
        return int(step)
    if step != "best":
        raise RunError(f"--step: {step[:40]!r} is no step; give a number, or best")
    wanted = experiment.trainer.best
    if wanted is None:
        raise RunError(
            f"--step best: the config of {path} does not say what is best; give a number, or train "
            "with Trainer.best, such as \"Trainer.best='recall/accuracy'\""
        )
    try:
        found = best_of(RunDir(path), wanted).step
    except RunError as error:
        raise RunError(f"--step best: {error}, or give a number") from None
    if found is None:
        raise RunError(f"--step best: {path} has no {wanted} yet; give a number, or train on")
    return found


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run directory that is read; what costs time is read at the first use.

    ``config_text`` has every binding in force; without ``wanted_step``, the newest checkpoint is
    read.
    """

    path: Path
    experiment: Experiment
    config_text: str
    wanted_step: int | None = None

    @functools.cached_property
    def tokenizer(self) -> Any | None:
        """Of the run's text, kept in its directory; None for tasks of bare tokens.

        UserError if the directory keeps none, and the text is not where the config says.
        """
        return kept_tokenizer(self.path) or run_tokenizer(self.experiment)

    @functools.cached_property
    def outline(self) -> tuple[Structure, Parameters]:
        """The model's structure, and its parameters as shapes."""
        return outline(lambda: self.experiment.model.make(nnx.Rngs(0)))

    @functools.cached_property
    def _checkpoint(self) -> tuple[int, Parameters, dict[str, Any]]:
        checkpoints = RunDir(self.path).checkpoints
        return restore_parameters(checkpoints, self.outline[1], self.wanted_step)

    @property
    def step(self) -> int:
        """Training steps behind the parameters."""
        return self._checkpoint[0]

    @property
    def parameters(self) -> Parameters:
        """Of the checkpoint, by name; RunError if there is none, or it does not fit."""
        return self._checkpoint[1]

    @functools.cached_property
    def model(self) -> Any:
        """The model with the parameters of the checkpoint.

        Raises:
          RunError: as of :attr:`parameters`, or the model was trained with another tokenizer.
        """
        self._check_tokenizer(lambda: self.tokenizer)
        return self.outline[0].merge(self.parameters)

    def check_text(self) -> None:
        """A RunError if the text at ``Text.path`` has another tokenizer than the model."""
        self._check_tokenizer(lambda: run_tokenizer(self.experiment))

    def _check_tokenizer(self, find: Callable[[], Any]) -> None:
        meta = self._checkpoint[2]
        trained = ((meta.get("data") or {}).get("batches") or {}).get("tokenizer")
        tokenizer = None if trained is None else find()
        if tokenizer is not None and tokenizer.fingerprint != trained:
            raise RunError(
                f"{self.path}: its model was trained with another tokenizer than "
                f"{tokenizer.spec}; put the former file or text back, or name text prepared with "
                "that tokenizer"
            )
