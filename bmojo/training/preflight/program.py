"""The compiled training step before a run: parameters, memory and operations of a device."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from rich.table import Table

from bmojo.data.pipeline import Batches, Segments
from bmojo.layers.axes import Names, parameter_axes
from bmojo.training.preflight.machine import empty_table, size
from bmojo.training.run_setup import RunSetup
from bmojo.training.sharding import spec_text
from bmojo.training.train_step import STOP, device_fields

NOT_CUT = "-"
"""The sharding of an array that lies whole on every device."""


class Step:
    """The training step with the most tokens, in shapes.

    Nothing here takes memory on a device until :meth:`compile`.

    Args:
      setup: of the run; its layout is in force.
    """

    def __init__(self, setup: RunSetup):
        self._setup, self._layout = setup, setup.layout
        stages = setup.curriculum.stages
        self.stage = max(stages, key=lambda stage: stage.batch_size * stage.data.length)
        self.number = stages.index(self.stage) + 1
        self._axes = parameter_axes(nnx.eval_shape(setup.make))
        self._parameters, self._state = setup.parameter_shapes(), setup.optimizer_shapes()

    @property
    def tokens(self) -> int:
        """Read by the step, on all devices."""
        return self.stage.batch_size * self.stage.data.length // self._setup.curriculum.segments

    @property
    def pieces_of_time(self) -> int:
        """Devices that share a sequence."""
        return 1 if self._layout is None else self._layout.sequence

    def parameters(self) -> list[dict[str, Any]]:
        """A row for each parameter: ``name``, ``shape``, ``axes`` (names), ``sharding``, bytes.

        ``bytes`` are those of the whole array, ``device_bytes`` those on one device.
        """
        return [
            {
                "name": name,
                "shape": list(leaf.shape),
                "dtype": str(leaf.dtype),
                "axes": _axes_text(self._axes.get(name), leaf.ndim),
                "sharding": _sharding_text(leaf),
                "bytes": _bytes(leaf),
                "device_bytes": _device_bytes(leaf),
            }
            for name, leaf in self._parameters.items()
        ]

    def totals(self) -> dict[str, dict[str, int]]:
        """Bytes of parameters, optimizer state, gradients, and of all three.

        Each has ``bytes``, for one device alone, ``device_bytes``, on one device of the mesh, and
        ``all_devices_bytes``, on all of them together.
        """
        devices = 1 if self._layout is None else self._layout.mesh.size
        # A gradient lies where its parameter does.
        trees = {
            "parameters": self._parameters,
            "optimizer state": self._state,
            "gradients": self._parameters,
        }
        rows = {}
        for name, tree in trees.items():
            leaves = jax.tree.leaves(tree)
            held = sum(map(_device_bytes, leaves))
            rows[name] = {
                "bytes": sum(map(_bytes, leaves)),
                "device_bytes": held,
                "all_devices_bytes": devices * held,
            }
        rows["together"] = {
            field: sum(row[field] for row in rows.values()) for field in rows["parameters"]
        }
        return rows

    def model_flops(self) -> float | None:
        """The step's operations on all devices by the model's own count, backward as 2 x forward.

        None: the model has no count. Operations that remat repeats are not counted.
        """
        per_token = self._setup.facts.get("flops_per_token", {}).get(str(self.stage.data.length))
        return None if per_token is None else 3.0 * per_token * self.tokens

    def compile(self) -> dict[str, Any]:
        """Compile the step, and ask XLA for its memory and operations.

        Raises:
          ValueError: a layer cannot cut its time over as many devices.
          JaxRuntimeError: RESOURCE_EXHAUSTED where the compiler knows that memory is too small.

        Returns:
          ``trace_seconds``, ``compile_seconds``; ``flops``, of one device, a loop's body counted
          once (None if unknown); ``memory``, of one device: bytes of
          ``arguments``, ``outputs``, ``aliased`` (outputs in the place of arguments),
          ``temporary``, ``program``, and ``together``; None if unknown.
        """
        carried = None
        if self._setup.curriculum.segments > 1:
            carried = self._setup.state_shapes(self.stage)
        step, arguments = self._setup.train_step(), (self._parameters, self._state, carried)
        began = time.monotonic()
        lowered = step.lower(*arguments, self._batch())
        traced = time.monotonic()
        compiled = lowered.compile()
        return {
            "trace_seconds": traced - began,
            "compile_seconds": time.monotonic() - traced,
            "flops": _flops(compiled),
            "memory": _memory(compiled),
        }

    def _batch(self) -> dict[str, Any]:
        """Shapes of the fields of a batch, read from the data themselves."""
        rows = self.stage.batch_size
        mine = None if self._layout is None else self._layout.local_rows(rows)
        source = self.stage.data.source(self._setup.trainer.seed, "train")
        segments = Segments(Batches(source, rows, 0, mine), self._setup.curriculum.segments)
        fields: dict[str, Any] = {}
        for name, value in device_fields(next(segments)).items():
            shape = (rows, *value.shape[1:])
            where = None if self._layout is None else self._layout.batch(shape)
            dtype = jax.dtypes.canonicalize_dtype(value.dtype)
            fields[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=where)
        if self._layout is not None and self._setup.processes.count > 1:
            flag = self._layout.flag(False)
            fields[STOP] = jax.ShapeDtypeStruct(flag.shape, flag.dtype, sharding=flag.sharding)
        return fields


def parameter_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Shape, sharding and bytes of every parameter."""
    made = empty_table("parameters", "name, shape, axes, cut along", "bytes, bytes a device")
    for row in rows:
        shape = " x ".join(map(str, row["shape"]))
        cut = "whole" if row["sharding"] == NOT_CUT else row["sharding"]
        made.add_row(row["name"], shape, row["axes"], cut, *_sizes(row, "bytes", "device_bytes"))
    return made


def totals_table(rows: Mapping[str, Mapping[str, int]]) -> Table:
    """Bytes of a training on one device alone, and on the mesh."""
    made = empty_table(
        "bytes of a training, without what a step needs for itself",
        "of",
        "one device alone, a device of the mesh, share, all devices together",
    )
    for name, row in rows.items():
        whole, held, everywhere = _sizes(row, "bytes", "device_bytes", "all_devices_bytes")
        share = row["device_bytes"] / max(row["bytes"], 1)
        made.add_row(name, whole, held, f"{share:.3f}", everywhere)
    return made


def uncut_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The share of the parameters that no rule cuts."""
    whole = [row for row in rows if row["sharding"] == NOT_CUT]
    held = sum(row["bytes"] for row in whole)
    part = held / max(sum(row["bytes"] for row in rows), 1)
    return (
        f"{len(whole)} of {len(rows)} parameters are not cut and lie whole on every device: "
        f"{size(held)}, {part:.1%} of all"
    )


def _sizes(row: Mapping[str, Any], *fields: str) -> tuple[str, ...]:
    return tuple(size(row[field]) for field in fields)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _device_bytes(leaf: Any) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _sharding_text(leaf: Any) -> str:
    """Axes of the mesh that cut an array; one sign if none does."""
    if leaf.sharding is None or _device_bytes(leaf) == _bytes(leaf):
        return NOT_CUT
    return spec_text(leaf.sharding)


def _axes_text(names: Names | None, ndim: int) -> str:
    if names is None:
        return "(no names)"
    return " ".join(name or NOT_CUT for name in names) if ndim else ""


def _flops(compiled: Any) -> float | None:
    try:
        costs = compiled.cost_analysis()
    except (NotImplementedError, RuntimeError):
        return None
    return (costs or {}).get("flops")


def _memory(compiled: Any) -> dict[str, int] | None:
    try:
        stats = compiled.memory_analysis()
    except (NotImplementedError, RuntimeError):
        return None
    if stats is None:
        return None
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    together = sum(memory.values()) - 2 * memory["aliased"]
    return {**memory, "together": together}
