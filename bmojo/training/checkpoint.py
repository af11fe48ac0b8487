"""Checkpoints: saved in the background, kept in number, read back to the bit."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from bmojo.training.parameters import Parameters, flatten, unflatten
from bmojo.training.rundir import RunError

# Orbax tells of every save and restore through absl, and of errors that it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
      step: steps done.
      parameters: of the model.
      optimizer_state: of the optimizer.
      meta: JSON values: position in the data, metrics not yet written, config.
      carried: the model's state between two segments of a sequence, flattened; None between
        sequences.
    """

    step: int
    parameters: Parameters
    optimizer_state: optax.OptState
    meta: dict[str, Any]
    carried: dict[str, Any] | None = None


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      directory: where they lie, one folder for each, named by its step.
      keep: how many of the newest are kept; None: all.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self.latest = self._manager.latest_step()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, checkpoint: Checkpoint) -> None:
        """Start saving; the arrays may be donated as soon as this returns."""
        # Copies of our own, because the arrays are donated while these are being written.
        parameters, state, carried = (
            {name: np.array(value) for name, value in tree.items()}
            for tree in (
                checkpoint.parameters,
                flatten(checkpoint.optimizer_state),
                checkpoint.carried or {},
            )
        )
        items = {
            "parameters": ocp.args.StandardSave(parameters),
            "optimizer": ocp.args.StandardSave(state),
            "meta": ocp.args.JsonSave(checkpoint.meta),
            "shapes": ocp.args.JsonSave({name: list(x.shape) for name, x in parameters.items()}),
        }
        if carried:
            items["carried"] = ocp.args.StandardSave(carried)
        self._manager.save(checkpoint.step, args=ocp.args.Composite(**items), force=True)
        self.latest = checkpoint.step

    def wait(self) -> None:
        """Wait until what was saved is on the disk."""
        self._manager.wait_until_finished()

    def restore(
        self,
        parameters: Parameters,
        optimizer_state: optax.OptState,
        carried: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda meta: None,
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that can be read.

        Checkpoints that cannot be read are moved aside, if an older one can be.

        Args:
          parameters: shapes and dtypes to expect.
          optimizer_state: the same of the optimizer.
          carried: from ``meta``, the same of the state that was carried, or None.

        Returns:
          The checkpoint, None if there is none, and a line about each one moved aside.

        Raises:
          RunError: there are checkpoints, and none can be read.
        """
        failures: list[tuple[int, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                _check_shapes(self._manager, step, parameters)
                only_meta = ocp.args.Composite(meta=ocp.args.JsonRestore())
                meta = self._manager.restore(step, args=only_meta)["meta"]
                between = carried(meta)
                items = {"parameters": parameters, "optimizer": flatten(optimizer_state)}
                if between is not None:
                    items["carried"] = between
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        **{
                            name: ocp.args.StandardRestore(_targets(shapes))
                            for name, shapes in items.items()
                        }
                    ),
                )
            except Exception as error:  # Orbax and TensorStore raise whatever they met.
                failures.append((step, _first_line(error)))
                continue
            lines = [self._move_aside(*failure) for failure in failures]
            self.latest = step
            state = unflatten(optimizer_state, restored["optimizer"])
            between = None if between is None else restored["carried"]
            return Checkpoint(step, restored["parameters"], state, meta, between), lines
        if failures:
            step, reason = failures[0]
            raise RunError(
                f"{self.directory}: no checkpoint can be read; the newest, of step {step}: "
                f"{reason}; start over with --fresh, or use the code version of summary.json"
            )
        return None, []

    def _move_aside(self, step: int, reason: str) -> str:
        aside = self.directory.parent / f"unreadable-checkpoint-{step}"
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"unreadable-checkpoint-{step}-{number}")
        (self.directory / str(step)).rename(aside)
        self._manager.reload()
        return f"the checkpoint of step {step} cannot be read ({reason}); moved to {aside}"


def restore_parameters(
    directory: Path, expected: Parameters, step: int | None = None
) -> tuple[int, Parameters, dict[str, Any]]:
    """Step, parameters and ``meta`` of the newest checkpoint, or of ``step``; no optimizer.

    Raises:
      RunError: there is no checkpoint, none of that step, or it is not of this model.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise RunError(f"{directory}: there are no checkpoints; train first with bmojo train")
    with ocp.CheckpointManager(
        directory, options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        newest = manager.latest_step()
        if newest is None:
            raise RunError(f"{directory}: there is no checkpoint yet; train on with bmojo train")
        if step is not None and step not in manager.all_steps():
            raise RunError(
                f"{directory}: there is no checkpoint of step {step}; take one of "
                f"{', '.join(map(str, sorted(manager.all_steps())))}"
            )
        step = newest if step is None else step
        try:
            _check_shapes(manager, step, expected)
            restored = manager.restore(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardRestore(_targets(expected)),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise whatever they met.
            raise RunError(
                f"{directory}: the checkpoint of step {step} does not fit the model: "
                f"{_first_line(error)}; use the config.gin and the code of that run"
            ) from error
    return step, restored["parameters"], restored["meta"]


def _check_shapes(manager: ocp.CheckpointManager, step: int, expected: Parameters) -> None:
    """Refuse the parameters of another model before any of them is read.

    Raises:
      ValueError: a parameter is missing, new, or of another shape.
    """
    saved = manager.restore(step, args=ocp.args.Composite(shapes=ocp.args.JsonRestore()))["shapes"]
    wanted = {name: list(value.shape) for name, value in expected.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name), wanted.get(name)
        if there != here:
            raise ValueError(
                f"parameter {name} is {there or 'absent'} in the checkpoint, "
                f"{here or 'absent'} in the model"
            )


def _targets(arrays: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
        for name, value in arrays.items()
    }


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
