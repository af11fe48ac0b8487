"""The parameters of a checkpoint, for those who only read."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from bmojo.training.checkpoints import hashes
from bmojo.training.checkpoints.layout import first_line, read_arrays, read_meta
from bmojo.training.parameters import Parameters
from bmojo.training.run_dir import RunError

READ = ("parameters", "meta", "shapes")


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
                f"{directory / str(step)}: the checkpoint is damaged: {hashes.told(problems)}; "
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
