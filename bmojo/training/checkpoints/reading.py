"""Reading checkpoints: their list, their format, their arrays, the parameters of one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

import bmojo
from bmojo.errors import first_line
from bmojo.training.checkpoints import hashes
from bmojo.training.metrics import Record, read_metrics
from bmojo.training.parameters import Parameters
from bmojo.training.run_dir import RunDir, RunError

FORMAT = 2
"""Version of the items and of ``meta``; it also changes when parameters get other names."""

FIRST = {"format": 1, "version": "0.1.0"}
"""Stamp of checkpoints that have none."""

READ = ("parameters", "meta", "shapes")


def stamp() -> dict[str, Any]:
    """The entries of ``meta`` that say who wrote a checkpoint."""
    return {"format": FORMAT, "version": bmojo.__version__}


def read_meta(
    manager: ocp.CheckpointManager, directory: Path, step: int, expected: Parameters
) -> dict[str, Any]:
    """The ``meta`` of a checkpoint, after a check that it fits this program and this model.

    Raises:
      RunError: another version of the program wrote it, in a format that is not read here.
      ValueError: its parameters have other names or shapes.
    """
    items = ocp.args.Composite(meta=ocp.args.JsonRestore(), shapes=ocp.args.JsonRestore())
    small = manager.restore(step, args=items)
    wrote = FIRST | {name: small["meta"][name] for name in FIRST if name in small["meta"]}
    if wrote["format"] != FORMAT:
        raise RunError(
            f"{directory / str(step)}: the checkpoint was written by bmojo {wrote['version']} in "
            f"format {wrote['format']}, bmojo {bmojo.__version__} reads format {FORMAT}; use "
            f"bmojo {wrote['version']}, or train again with --fresh"
        )
    _check_shapes(small["shapes"], expected)
    return small["meta"]


def read_arrays(
    manager: ocp.CheckpointManager, step: int, items: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Items of a checkpoint; each array as, and where, its shape, dtype and sharding say."""
    arguments = {name: ocp.args.StandardRestore(_targets(arrays)) for name, arrays in items.items()}
    restored = manager.restore(step, args=ocp.args.Composite(**arguments))
    return {name: restored[name] for name in items}


def _targets(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and place of arrays to be read; without a sharding, the first device."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        name: jax.ShapeDtypeStruct(
            value.shape, value.dtype, sharding=getattr(value, "sharding", None) or first
        )
        for name, value in arrays.items()
    }


def restore_parameters(
    directory: Path, expected: Parameters, step: int | None = None
) -> tuple[int, Parameters, dict[str, Any]]:
    """Step, parameters and ``meta`` of the newest checkpoint, or of ``step``; no optimizer.

    Args:
      directory: of the checkpoints; it may be in use.
      expected: shape and dtype of each parameter, and by its ``sharding`` where it must lie;
        None: on the first device. What was saved with another dtype is converted.
      step: of the checkpoint; None: the newest.

    Raises:
      RunError: there is no checkpoint, none of that step, it is damaged, or it is not of this
        model.
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
        if problems := hashes.changes(directory / str(step), within=READ):
            others = [str(other) for other in sorted(manager.all_steps()) if other != step]
            remedy = f"take that of step {' or '.join(others)}" if others else "train again"
            raise RunError(
                f"{directory / str(step)}: the checkpoint is damaged: {hashes.shown(problems)}; "
                f"{remedy}"
            )
        try:
            meta = read_meta(manager, directory, step, expected)
            parameters = read_arrays(manager, step, {"parameters": expected})["parameters"]
        except RunError:
            raise
        except Exception as error:  # Orbax and TensorStore raise whatever they met.
            raise RunError(
                f"{directory}: the checkpoint of step {step} does not fit the model: "
                f"{first_line(error)}; use the config.gin and the code of that run"
            ) from error
    return step, parameters, meta


@dataclasses.dataclass(frozen=True)
class Entry:
    """A checkpoint.

    Attributes:
      step: steps done.
      when: seconds since 1970 at which it became final.
      bytes: of all files.
      problems: of names and sizes, by :func:`bmojo.training.checkpoints.hashes.changes`; None:
        there are no hashes.
      loss: on the training data in the last line of metrics up to it.
      evaluations: the records of this step over all groups.
    """

    step: int
    when: float
    bytes: int
    problems: list[str] | None
    loss: float | None
    evaluations: list[Record]


def steps_of(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising.

    Raises:
      RunError: there are none.
    """
    if directory.is_dir():
        names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
        if steps := sorted(int(name) for name in names if name.isdecimal()):
            return steps
    raise RunError(f"{directory}: there are no checkpoints; train first with bmojo train")


def inventory(run: RunDir) -> list[Entry]:
    """All checkpoints of a run in order of their steps.

    Raises:
      RunError: there are none.
    """
    history = read_metrics(run.metrics)
    entries = []
    for step in steps_of(run.checkpoints):
        folder = run.checkpoints / str(step)
        trained = [r for r in history if "evaluation" not in r and r["step"] <= step]
        measured = [r for r in history if "evaluation" in r and r["step"] == step]
        overall = [r for r in measured if r["group"] is None]
        loss = trained[-1]["loss"] if trained else None
        problems = hashes.changes(folder, content=False)
        when, size = folder.stat().st_mtime, hashes.size(folder)
        entries.append(Entry(step, when, size, problems, loss, overall))
    return entries


def _check_shapes(saved: Mapping[str, list[int]], expected: Parameters) -> None:
    """Refuse the parameters of another model before any of them is read.

    Raises:
      ValueError: a parameter is missing, new, or of another shape.
    """
    wanted = {name: list(value.shape) for name, value in expected.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name), wanted.get(name)
        if there != here:
            raise ValueError(
                f"parameter {name} is {there or 'absent'} in the checkpoint, "
                f"{here or 'absent'} in the model"
            )
