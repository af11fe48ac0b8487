"""The compiled training step before a run: parameters, memory and operations of a device."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from rich.table import Table

from bmojo.data.pipeline import Batches, Segments
from bmojo.layers.protocol import parameter_axes
from bmojo.ops.axes import Names
from bmojo.training.preflight.machine import size, table
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
        self._parameters, self._state = setup.shapes, setup.optimizer_shapes()

    @property
    def tokens(self) -> int:
        """Read by the step, on all devices."""
        return self.stage.batch_size * self.stage.data.length // self._setup.curriculum.segments

    @property
    def pieces_of_time(self) -> int:
        """Devices that share a sequence."""
        return self._layout.sequence

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
        # A gradient lies where its parameter does.
        trees = (self._parameters, self._state, self._parameters)
        rows = {}
        for name, tree in zip(("parameters", "optimizer state", "gradients"), trees, strict=True):
            leaves = jax.tree.leaves(tree)
            held = sum(map(_device_bytes, leaves))
            everywhere = self._layout.devices * held
            rows[name] = {"bytes": sum(map(_bytes, leaves)), "device_bytes": held}
            rows[name]["all_devices_bytes"] = everywhere
        fields = rows["parameters"]
        rows["together"] = {field: sum(row[field] for row in rows.values()) for field in fields}
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
            "flops": (_analysis(compiled.cost_analysis) or {}).get("flops"),
            "memory": _memory(_analysis(compiled.memory_analysis)),
        }

    def _batch(self) -> dict[str, Any]:
        """Shapes of the fields of a batch, read from the data themselves."""
        rows = self.stage.batch_size
        mine = self._layout.local_rows(rows)
        source = self.stage.data.source(self._setup.trainer.seed, "train")
        segments = Segments(Batches(source, rows, 0, mine), self._setup.curriculum.segments)
        fields: dict[str, Any] = {}
        for name, value in device_fields(next(segments)).items():
            shape = (rows, *value.shape[1:])
            dtype = jax.dtypes.canonicalize_dtype(value.dtype)
            fields[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=self._layout.batch(shape))
        if self._setup.processes.count > 1:
            flag = self._layout.flag(False)
            fields[STOP] = jax.ShapeDtypeStruct(flag.shape, flag.dtype, sharding=flag.sharding)
        return fields


def parameter_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Shape, sharding and bytes of every parameter."""
    shown = [
        {
            **row,
            "shape": " x ".join(map(str, row["shape"])),
            "cut": "whole" if row["sharding"] == NOT_CUT else row["sharding"],
        }
        for row in rows
    ]
    columns = {"name": "{name}", "shape": "{shape}", "axes": "{axes}", "cut along": "{cut}"}
    columns |= {"bytes": "{bytes}", "bytes a device": "{device_bytes}"}
    return table("parameters", 4, columns, shown)


def totals_table(rows: Mapping[str, Mapping[str, int]]) -> Table:
    """Bytes of a training on one device alone, and on the mesh."""
    shown = [
        {**row, "of": name, "share": row["device_bytes"] / max(row["bytes"], 1)}
        for name, row in rows.items()
    ]
    columns = {
        "of": "{of}",
        "one device alone": "{bytes}",
        "a device of the mesh": "{device_bytes}",
    }
    columns |= {"share": "{share:.3f}", "all devices together": "{all_devices_bytes}"}
    return table("bytes of a training, without what a step needs for itself", 1, columns, shown)


def uncut_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The share of the parameters that no rule cuts."""
    whole = [row for row in rows if row["sharding"] == NOT_CUT]
    held = sum(row["bytes"] for row in whole)
    part = held / max(sum(row["bytes"] for row in rows), 1)
    return (
        f"{len(whole)} of {len(rows)} parameters are not cut and lie whole on every device: "
        f"{size(held)}, {part:.1%} of all"
    )


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


def _analysis(analyse: Callable[[], Any]) -> Any:
    """What the compiler counts; None if the backend does not."""
    try:
        return analyse()
    except (NotImplementedError, RuntimeError):
        return None


def _memory(stats: Any) -> dict[str, int] | None:
    if stats is None:
        return None
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return {**memory, "together": sum(memory.values()) - 2 * memory["aliased"]}
