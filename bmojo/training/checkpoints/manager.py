"""The checkpoints of a run: saved in the background, restored from the newest whole one."""

import dataclasses
import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from bmojo.errors import first_line
from bmojo.multihost import Processes
from bmojo.training.checkpoints import hashes
from bmojo.training.checkpoints.reading import read_arrays, read_meta, stamp
from bmojo.training.parameters import Parameters, flatten, unflatten
from bmojo.training.run_dir import RunError

# Orbax logs every save and restore through absl.
logging.getLogger("absl").setLevel(logging.CRITICAL)

PATIENCE = 10.0
"""Seconds between two lines about a verification that takes long."""

LONGEST = 86400.0
"""Seconds that processes wait while the main one verifies."""

Carried = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a run: all that it needs to go on as if it had never stopped.

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

    With several processes, all of them make one and call the same methods in the same order.

    Args:
      directory: where they lie, one folder for each, named by its step.
      keep: how many of the newest are kept; None: all.
      say: prints a line about a long verification, or about a failure in the background.
      processes: this process and the others of the run.

    Attributes:
      latest: step of the one saved or restored last.
      best: step of one that is kept however old it gets; None: there is none.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None = None,
        say: Callable[[str], None] = lambda line: None,
        processes: Processes | None = None,
    ):
        self.directory = Path(directory).absolute()
        self.best: int | None = None
        self._keep, self._say = keep, say
        self._processes = processes or Processes()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self.latest = self._manager.latest_step()
        self._hashing: threading.Thread | None = None
        self._trouble: str | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.wait_until_finished()
        self._end_hashing()
        self._manager.close()

    def save(self, checkpoint: Checkpoint) -> None:
        """Start saving; the arrays may be donated as soon as this returns."""
        self._manager.wait_until_finished()
        self._end_hashing()  # lest what is being read is deleted
        parameters = checkpoint.parameters
        meta = {**stamp(), **checkpoint.meta}
        shapes = {name: list(value.shape) for name, value in parameters.items()}
        items = {
            "parameters": ocp.args.StandardSave(_held(parameters)),
            "optimizer": ocp.args.StandardSave(_held(flatten(checkpoint.optimizer_state))),
            "meta": ocp.args.JsonSave(meta),
            "shapes": ocp.args.JsonSave(shapes),
        }
        if checkpoint.carried:
            items["carried"] = ocp.args.StandardSave(_held(checkpoint.carried))
        self._manager.save(checkpoint.step, args=ocp.args.Composite(**items), force=True)
        self.latest = checkpoint.step
        if self._processes.main:
            hashing = threading.Thread(target=self._hash, args=(checkpoint.step,), name="hashes")
            self._hashing = hashing
            hashing.start()

    def wait(self) -> None:
        """Wait until what was saved, and its hashes, are on the disk, and delete the rest."""
        self._manager.wait_until_finished()
        self._end_hashing()
        self._processes.meet("hashes")
        steps = sorted(self._manager.all_steps())
        for step, stays in zip(steps, self._stays(steps), strict=True):
            if not stays:
                self._manager.delete(step)

    def restore(
        self,
        parameters: Parameters,
        optimizer_state: optax.OptState,
        carried: Carried = lambda meta: None,
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is as it was written and can be read.

        Those that are not are moved aside, if an older one is.

        Args:
          parameters: shape and dtype of each, and by its ``sharding`` where it must lie; None:
            on the first device. How it lay, and its dtype, when it was saved does not matter.
          optimizer_state: the same of the optimizer.
          carried: from ``meta``, the same of the state that was carried, or None.

        Returns:
          The checkpoint, None if there is none, and a line about each one moved aside and
          about hashes that were missing.

        Raises:
          RunError: there are checkpoints, and none can be read; or one is of a format that is
            not known here.
        """
        failures: list[tuple[int, str, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            problems = self._processes.from_main(functools.partial(self._changes, step), LONGEST)
            if problems:
                failures.append((step, "is damaged", hashes.shown(problems)))
                continue
            checkpoint, reason = None, None
            try:
                checkpoint = self._read(step, parameters, optimizer_state, carried)
            except RunError:
                raise
            except Exception as error:  # Orbax and TensorStore raise whatever they met.
                reason = first_line(error)
            reason = next(filter(None, self._processes.gather(reason)), None)
            if checkpoint is None or reason is not None:
                failures.append((step, "cannot be read", reason or "another process failed"))
                continue
            lines = [self._move_aside(*failure) for failure in failures]
            if problems is None:
                lines.append(self._processes.from_main(functools.partial(self._hash_late, step)))
            self.latest = step
            return checkpoint, lines
        if failures:
            step, _, reason = failures[0]
            raise RunError(
                f"{self.directory}: no checkpoint can be read; the newest, of step {step}: "
                f"{reason}; start over with --fresh, or use the code version of summary.json"
            )
        return None, []

    def _read(
        self, step: int, parameters: Parameters, optimizer_state: optax.OptState, carried: Carried
    ) -> Checkpoint:
        meta = read_meta(self._manager, self.directory, step, parameters)
        items = {"parameters": parameters, "optimizer": flatten(optimizer_state)}
        if (between := carried(meta)) is not None:
            items["carried"] = between
        restored = read_arrays(self._manager, step, items)
        state = unflatten(optimizer_state, restored["optimizer"])
        return Checkpoint(step, restored["parameters"], state, meta, restored.get("carried"))

    def _changes(self, step: int) -> list[str] | None:
        """The differences of the files from their hashes, with a line now and then."""
        directory = self.directory / str(step)
        total, done, last = hashes.size(directory), 0, time.monotonic()

        def progress(count: int) -> None:
            nonlocal done, last
            done += count
            if time.monotonic() - last > PATIENCE:
                last = time.monotonic()
                read = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
                self._say(f"verifying the checkpoint of step {step}: {read}")

        return hashes.changes(directory, progress)

    def _move_aside(self, step: int, state: str, reason: str) -> str:
        def move() -> str:
            name = f"unreadable-checkpoint-{step}"
            names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
            parent = self.directory.parent
            aside = next(parent / name for name in names if not (parent / name).exists())
            (self.directory / str(step)).rename(aside)
            return f"the checkpoint of step {step} {state} ({reason}); moved to {aside}"

        line = self._processes.from_main(move)
        self._manager.reload()
        self._processes.meet("moved aside")
        return line

    # Hashes

    def _hash(self, step: int) -> None:
        """Write the hashes as soon as a checkpoint is final; run in a thread."""
        try:
            self._manager.wait_until_finished()
        except Exception:  # the thread that saves gets it too
            return
        try:
            hashes.write(self.directory / str(step))
        except OSError as error:
            self._trouble = (
                f"the hashes of the checkpoint of step {step} could not be written "
                f"({first_line(error)}); a later change of its files will not be found"
            )

    def _end_hashing(self) -> None:
        if self._hashing is not None:
            self._hashing.join()
            self._hashing = None
        if self._trouble is not None:
            self._say(self._trouble)
            self._trouble = None

    def _hash_late(self, step: int) -> str:
        """Write the hashes of a checkpoint that was read without."""
        hashes.write(self.directory / str(step))
        return (
            f"the checkpoint of step {step} had no hashes (the run was killed before they were "
            "written); it could be read, and has them now"
        )

    def _stays(self, steps: Sequence[int]) -> list[bool]:
        """Whether each checkpoint is kept, of steps in rising order: the newest and the best."""
        newest = steps if self._keep is None else steps[-self._keep :]
        return [step in newest or step == self.best for step in steps]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's policy of preservation."""
        return self._stays([checkpoint.step for checkpoint in checkpoints])


def _held(arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays that stay as they are while they are written, whatever becomes of those given.

    Orbax takes what is on an accelerator to the host before it returns. On the host it would
    only look at arrays that the next step of training is about to overwrite: of these, and of
    each process's part of them alone, copies are made.
    """
    return {name: _copy(value) for name, value in arrays.items()}


def _copy(array: Any) -> jax.Array:
    if not isinstance(array, jax.Array):
        return jax.device_put(np.array(array), jax.local_devices()[0])
    device: Any = next(iter(array.sharding.device_set))
    if device.platform != "cpu":
        return array
    shards = [jax.device_put(np.array(s.data), s.device) for s in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)
