"""The checkpoints of a run: saved in the background, restored from the newest whole one."""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint._src import asyncio_utils
from orbax.checkpoint._src.futures import future

import bmojo
from bmojo.errors import first_line
from bmojo.multihost import Processes
from bmojo.training import hashes
from bmojo.training.metrics import Record, read_metrics
from bmojo.training.parameters import Parameters, flatten, unflatten
from bmojo.training.run_dir import RunDir, RunError, WriteError, first_difference, without_mesh

# Orbax logs every save and restore through absl.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine in an event loop of its own, all tasks of which have ended.

    In place of Orbax's function, which closes the loop as soon as one of several writes fails: the
    others then find it closed, each with a traceback.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        if left := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


if hasattr(asyncio_utils, "_run_sync_via_new_loop"):  # of orbax-checkpoint 0.12
    asyncio_utils._run_sync_via_new_loop = _run

FORMAT = 2
"""Version of the items and of ``meta``; it also changes when parameters get other names."""

FIRST = {"format": 1, "version": "0.1.0"}  # of checkpoints without a stamp


def _release() -> None:
    """Let threads of a save that failed go on, which wait five minutes for what will not come.

    The process could not end before. They meet the same error, and nobody asks for it.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ == "_SignalingThread":
            with contextlib.suppress(AttributeError):  # of another version
                waits: Any = thread
                future.set_signals(waits._receive_signals, operation_id=waits._operation_id)


DESCRIPTORS = 64  # that a save opens at most: files, and three for each event loop

LONGEST = 86400.0  # seconds that processes wait while the main one verifies

LEAN_CHUNK, LEAN_FILE = 2**22, 2**24
"""Bytes of the pieces and files of an array that is saved with little memory."""

Carried = Callable[[dict[str, Any]], dict[str, Any] | None]


def stamp() -> dict[str, Any]:
    """The entries of ``meta`` that say who wrote a checkpoint."""
    return {"format": FORMAT, "version": bmojo.__version__}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a run: all that it needs to go on as if it had never stopped.

    ``meta`` has JSON values: position in the data, metrics not yet written, config. ``carried`` is
    the model's state between two segments of a sequence, flattened; None between sequences.
    Without ``optimizer_state``, that of an imported model, the optimizer begins anew.
    """

    step: int
    parameters: Parameters
    optimizer_state: optax.OptState | None
    meta: dict[str, Any]
    carried: dict[str, Any] | None = None


class Checkpoints(contextlib.ExitStack):
    """The checkpoints of one run directory; several processes call the same methods in order.

    Args:
      directory: where they lie, one folder for each, named by its step.
      keep: how many of the newest are kept; None: all.
      say: prints a line about a failure in the background.
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
        super().__init__()
        self.directory = Path(directory).absolute()
        self.best: int | None = None
        self._keep, self._say, self._processes = keep, say, processes or Processes()
        self._hashing: threading.Thread | None = None
        self._trouble: str | None = None
        self._unreadable: RunError | None = None
        self.directory.mkdir(parents=True, exist_ok=True)
        _check_names(self.directory)
        options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
        self._link = self.enter_context(_plain_name(self.directory))
        self._manager = ocp.CheckpointManager(self._link, options=options)
        self.latest = self._manager.latest_step()
        self.callback(_release)
        self.callback(self._manager.close)
        self.callback(self._end_writing)

    def save(self, checkpoint: Checkpoint, hold: bool = True) -> None:
        """Start saving; the arrays may be donated as soon as this returns.

        Without ``hold`` there are no copies, and they must stay until :meth:`wait` is over; what
        is compressed on its way to the disk is kept small, which costs files.
        """
        self.wait()
        with contextlib.ExitStack() as held:  # half of a save that has none leaves tracebacks
            for descriptor in (d for _ in range(DESCRIPTORS // 2) for d in os.pipe()):
                held.callback(os.close, descriptor)
        parameters, step = checkpoint.parameters, checkpoint.step
        shapes = {name: list(value.shape) for name, value in parameters.items()}
        arrays = {"parameters": parameters}
        if checkpoint.optimizer_state is not None:
            arrays["optimizer"] = flatten(checkpoint.optimizer_state)
        if checkpoint.carried:
            arrays["carried"] = checkpoint.carried
        write = _save if hold else _save_lean
        items = {name: write(item) for name, item in arrays.items()}
        meta = {**stamp(), "step": step, **checkpoint.meta}
        if (own := RunDir(self.directory.parent).own_id()) is not None:
            meta["run"] = own
        items["meta"] = ocp.args.JsonSave(meta)
        items["shapes"] = ocp.args.JsonSave(shapes)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self.latest = step
        if self._processes.main:
            self._hashing = threading.Thread(target=self._verify, args=(step, arrays.keys()))
            self._hashing.start()

    def wait(self) -> None:
        """Wait until what was saved can be read, with its hashes, and delete the rest.

        Raises:
          bmojo.training.run_dir.WriteError: it cannot be read; what was saved before stays.
        """
        self._end_writing()
        self._processes.meet("hashes")
        steps = sorted(self._manager.all_steps())
        newest = steps if self._keep is None else steps[-self._keep :]
        for step in steps:
            if step not in newest and step != self.best:
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
          The checkpoint, None if there is none, and a line about each trouble met.

        Raises:
          RunError: there are checkpoints, and none can be read; or one is of a format that is
            not known here.
        """
        failures: list[tuple[int, str, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            verify = functools.partial(hashes.changes, self.directory / str(step))
            problems = self._processes.from_main(verify, LONGEST)
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
                write = functools.partial(hashes.write, self.directory / str(step))
                self._processes.from_main(write)
                lines.append(
                    f"the checkpoint of step {step} had no hashes (the run was killed before they "
                    "were written); it could be read, and has them now"
                )
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
        meta = _read_meta(self._manager, self.directory, step, parameters)
        items = {"parameters": parameters}
        if (self.directory / str(step) / "optimizer").exists():
            items["optimizer"] = flatten(optimizer_state)
        if (between := carried(meta)) is not None:
            items["carried"] = between
        restored = _read_arrays(self._manager, step, items)
        state = None
        if "optimizer" in restored:
            state = unflatten(optimizer_state, restored["optimizer"])
        return Checkpoint(step, restored["parameters"], state, meta, restored.get("carried"))

    def _move_aside(self, step: int, state: str, reason: str) -> str:
        def move() -> str:
            aside = self.directory.parent / f"unreadable-checkpoint-{step}"
            names = (aside.with_name(f"{aside.name}-{n}") for n in itertools.count(2))
            free = next(p for p in itertools.chain([aside], names) if not p.exists())
            (self.directory / str(step)).rename(free)
            return f"the checkpoint of step {step} {state} ({reason}); moved to {free}"

        line = self._processes.from_main(move)
        self._manager.reload()
        self._processes.meet("moved aside")
        return line

    def _verify(self, step: int, items: Iterable[str]) -> None:
        """Open a checkpoint's manifests, and write its hashes, once it is final; in a thread."""
        try:
            self._manager.wait_until_finished()
        except Exception:  # the thread that saves gets it too
            return
        place, link = self.directory / str(step), self._link / str(step)
        if missing := [item for item in items if not _has_arrays(link / item)]:
            self._unreadable = WriteError(
                f"{place}: what was just saved cannot be read (no arrays in {', '.join(missing)}); "
                "move it away and see to the storage, and the same command goes on from the "
                "checkpoint before"
            )
            return
        try:
            hashes.write(place)
        except OSError as error:
            self._trouble = (
                f"the hashes of the checkpoint of step {step} could not be written "
                f"({first_line(error)}); a later change of its files will not be found"
            )

    def _end_writing(self) -> None:
        """Wait for what is being saved and verified."""
        self._manager.wait_until_finished()
        if self._hashing is not None:
            self._hashing.join()
        self._hashing, trouble, self._trouble = None, self._trouble, None
        if trouble is not None:
            self._say(trouble)
        unreadable, self._unreadable = self._unreadable, None
        if unreadable is not None:
            raise unreadable


def _check_names(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising; RunError if a name is no step's."""
    names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
    steps = {name: int(name) for name in names if name.isdecimal()}
    for name, step in steps.items():
        if name != str(step):
            raise RunError(
                f"{directory / name}: a checkpoint is named by its step; rename it to {step}, or "
                "move it elsewhere"
            )
    return sorted(steps.values())


@contextlib.contextmanager
def _plain_name(directory: Path) -> Iterator[Path]:
    """A name of the directory without what Orbax takes for a pattern, TensorStore for a slash."""
    if not set("*?[\\") & set(str(directory)):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="bmojo-") as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(directory, target_is_directory=True)
        yield link


def _has_arrays(item: Path) -> bool:
    """Whether the manifest of an item can be opened, and names arrays."""
    base = {"driver": "file", "path": f"{item}/"}
    try:
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        return bool(store.list().result())
    except ValueError:  # of whatever TensorStore met
        return False


def _save(arrays: Mapping[str, Any]) -> ocp.args.CheckpointArgs:
    return ocp.args.StandardSave(_held(arrays))


def _save_lean(arrays: Mapping[str, Any]) -> ocp.args.CheckpointArgs:
    """The same without copies, by way of small pieces: TensorStore holds what fills a file."""
    pieces = {name: ocp.SaveArgs(chunk_byte_size=LEAN_CHUNK) for name in arrays}
    return ocp.args.PyTreeSave(
        dict(arrays), save_args=pieces, ocdbt_target_data_file_size=LEAN_FILE
    )


def _held(arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Arrays that stay as they are while they are written, whatever becomes of those given.

    Orbax takes what is on an accelerator to the host before it returns. On the host it would
    only look at arrays that the next step of training is about to overwrite: of these, and of
    each process's part of them alone, copies are made.
    """

    def copy(array: Any) -> jax.Array:
        if not isinstance(array, jax.Array):
            return jax.device_put(np.array(array), jax.local_devices()[0])
        device: Any = next(iter(array.sharding.device_set))
        if device.platform != "cpu":
            return array
        shards = [jax.device_put(np.array(s.data), s.device) for s in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)

    return {name: copy(value) for name, value in arrays.items()}


def _read_meta(
    manager: ocp.CheckpointManager, directory: Path, step: int, expected: Parameters
) -> dict[str, Any]:
    """The ``meta`` of a checkpoint, after a check that it fits this program and this model."""
    items = ocp.args.Composite(meta=ocp.args.JsonRestore(), shapes=ocp.args.JsonRestore())
    small = manager.restore(step, args=items)
    wrote = FIRST | {name: small["meta"][name] for name in FIRST if name in small["meta"]}
    if wrote["format"] != FORMAT:
        raise RunError(
            f"{directory / str(step)}: the checkpoint was written by bmojo {wrote['version']} in "
            f"format {wrote['format']}, bmojo {bmojo.__version__} reads format {FORMAT}; use "
            f"bmojo {wrote['version']}, or train again with --fresh"
        )
    run, meta = RunDir(directory.parent), small["meta"]
    if meta.get("step", step) != step:
        raise ValueError(f"it is the checkpoint of step {meta['step']}; give it that name again")
    if "config" in meta and run.config.is_file():
        texts = (meta["config"], run.config.read_text(encoding="utf8"))
        pair = [without_mesh(text) for text in texts]
        if pair[0] != pair[1]:
            _, was, now = first_difference(*map("\n".join, pair))
            raise ValueError(f"it is of another run, which has {was} where config.gin has {now}")
    if "run" in meta and meta["run"] != (run.own_id() or meta["run"]):
        raise ValueError(
            f"it is of another run with the same config ({meta['run']}, and {run.identity} has "
            f"{run.own_id()}): move it back to where it came from, or delete that file"
        )
    saved, wanted = small["shapes"], {name: list(x.shape) for name, x in expected.items()}
    for name in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(name), wanted.get(name)
        if there != here:
            raise ValueError(
                f"parameter {name} is {there or 'absent'} in the checkpoint, "
                f"{here or 'absent'} in the model"
            )
    return meta


def _read_arrays(
    manager: ocp.CheckpointManager, step: int, items: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Items of a checkpoint; each array as, and where, its shape, dtype and sharding say."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(value: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(value, "sharding", None) or first
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)

    targets = {name: jax.tree.map(target, arrays) for name, arrays in items.items()}
    arguments = {name: ocp.args.StandardRestore(arrays) for name, arrays in targets.items()}
    restored = manager.restore(step, args=ocp.args.Composite(**arguments))
    return {name: restored[name] for name in items}


def restore_parameters(
    directory: Path, expected: Parameters, step: int | None = None
) -> tuple[int, Parameters, dict[str, Any]]:
    """Step, parameters and ``meta`` of the newest checkpoint, or of ``step``; no optimizer.

    The directory may be in use; ``expected`` is as ``parameters`` of :meth:`Checkpoints.restore`.
    RunError if there is no such checkpoint, it is damaged, or not of this model.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise RunError(f"{directory}: there are no checkpoints; train first with bmojo train")
    _check_names(directory)
    options = ocp.CheckpointManagerOptions(read_only=True)
    with (
        _plain_name(directory) as link,
        ocp.CheckpointManager(link, options=options) as manager,
    ):
        steps = sorted(manager.all_steps())
        if not steps:
            raise RunError(f"{directory}: there is no checkpoint yet; train on with bmojo train")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise RunError(
                f"{directory}: there is no checkpoint of step {step}; take one of "
                f"{', '.join(map(str, steps))}"
            )
        place = directory / str(step)
        if problems := hashes.changes(place, within=("parameters", "meta", "shapes")):
            others = [str(other) for other in steps if other != step]
            remedy = f"take that of step {' or '.join(others)}" if others else "train again"
            raise RunError(
                f"{place}: the checkpoint is damaged: {hashes.shown(problems)}; {remedy}"
            )
        try:
            meta = _read_meta(manager, directory, step, expected)
            parameters = _read_arrays(manager, step, {"parameters": expected})["parameters"]
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
    """A checkpoint in a list."""

    step: int
    when: float  # seconds since 1970
    bytes: int
    problems: list[str] | None  # of names and sizes; None: there are no hashes
    loss: float | None  # of the last line of metrics up to it
    evaluations: list[Record]  # of this step, over all groups


def steps_of(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising; RunError if there are none."""
    if directory.is_dir():
        if steps := _check_names(directory):
            return steps
    raise RunError(f"{directory}: there are no checkpoints; train first with bmojo train")


def inventory(run: RunDir) -> list[Entry]:
    """All checkpoints of a run in order of their steps; RunError if there are none."""
    history, entries = read_metrics(run.metrics), []
    for step in steps_of(run.checkpoints):
        folder = run.checkpoints / str(step)
        losses = [r["loss"] for r in history if "evaluation" not in r and r["step"] <= step]
        measured = [r for r in history if "evaluation" in r and r["step"] == step]
        overall = [r for r in measured if r["group"] is None]
        problems, when = hashes.changes(folder, content=False), folder.stat().st_mtime
        size, loss = hashes.size(folder), losses[-1] if losses else None
        entries.append(Entry(step, when, size, problems, loss, overall))
    return entries
