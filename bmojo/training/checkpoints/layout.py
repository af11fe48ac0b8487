"""What a checkpoint on disk consists of, by the version of its format."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from bmojo.training.checkpoints.arrays import check_shapes, targets
from bmojo.training.parameters import Parameters
from bmojo.training.run_dir import RunError

FORMAT = 1
"""Version of what ``meta`` and the items hold; checkpoints without one are of the first."""


def read_meta(
    manager: ocp.CheckpointManager, directory: Path, step: int, expected: Parameters
) -> dict[str, Any]:
    """A checkpoint's ``meta``, after a look whether it is of this program and this model.

    Raises:
      RunError: its format is not known here.
      ValueError: its parameters have other names or shapes.
    """
    items = ocp.args.Composite(meta=ocp.args.JsonRestore(), shapes=ocp.args.JsonRestore())
    small = manager.restore(step, args=items)
    version = small["meta"].get("format", FORMAT)
    if version != FORMAT:
        raise RunError(
            f"{directory}: the checkpoint of step {step} has format {version}, this bmojo reads "
            f"format {FORMAT}; use the version of bmojo that wrote it"
        )
    check_shapes(small["shapes"], expected)
    return small["meta"]


def read_arrays(
    manager: ocp.CheckpointManager, step: int, items: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Items of a checkpoint; each array as, and where, its shape, dtype and sharding say."""
    arguments = {name: ocp.args.StandardRestore(targets(arrays)) for name, arrays in items.items()}
    restored = manager.restore(step, args=ocp.args.Composite(**arguments))
    return {name: restored[name] for name in items}


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
