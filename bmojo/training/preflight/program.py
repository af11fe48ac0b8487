"""What a config asks of each device, before anything is trained."""

import math
import time
from typing import Any

import jax
from flax import nnx

from bmojo.data.pipeline import Batches, Segments
from bmojo.layers.protocol import parameter_axes
from bmojo.model import ModelConfig, describe
from bmojo.ops.axes import Names
from bmojo.training.config import OptimizerConfig, Stage, TrainerConfig
from bmojo.training.curriculum import Curriculum
from bmojo.training.mesh import Layout, spec_text
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import outline
from bmojo.training.placed import Placed
from bmojo.training.processes import Processes
from bmojo.training.train_step import STOP, device_fields, make_fresh_state, make_train_step

NOT_CUT = "-"
"""The sharding of an array that lies whole on every device."""


class Step:
    """The training step of a config with the most tokens, in shapes.

    Nothing here takes memory on a device until :meth:`compile`.

    Args:
      model_config: ``model_config.make(rngs)`` gives the model.
      optimizer_config: of its parameters.
      trainer: seed, parts of a batch, segments of a sequence.
      curriculum: its stages.
      layout: where arrays lie, in force; None: on one device.
      processes: that train together.

    Raises:
      RunError: an array cannot be cut as the layout says.
    """

    def __init__(
        self,
        model_config: Any,
        optimizer_config: OptimizerConfig,
        trainer: TrainerConfig,
        curriculum: tuple[Stage, ...],
        layout: Layout | None,
        processes: Processes,
    ):
        self._config, self._trainer = model_config, trainer
        self._layout, self._processes = layout, processes
        self._plan = Curriculum(curriculum, trainer.segments_per_document)
        self.stage = max(curriculum, key=lambda stage: stage.batch_size * stage.data.length)
        self.number = curriculum.index(self.stage) + 1

        def make() -> Any:
            return model_config.make(nnx.Rngs(trainer.seed))

        self._structure, shapes = outline(make)
        self._optimizer = make_optimizer(optimizer_config, self._plan.total, self._structure.names)
        self._placed = Placed(layout, make, shapes)
        self._axes = parameter_axes(nnx.eval_shape(make))
        self._parameters = self._placed.parameters(shapes)
        self._state = self._placed.optimizer(jax.eval_shape(self._optimizer.init, shapes))

    @property
    def tokens(self) -> int:
        """Read by the step, on all devices."""
        return self.stage.batch_size * self.stage.data.length // self._plan.segments

    @property
    def pieces_of_time(self) -> int:
        """Devices that share a sequence."""
        return 1 if self._layout is None else self._layout.sequence

    def parameters(self) -> list[dict[str, Any]]:
        """Of each parameter ``name``, ``shape``, ``axes`` (their names), ``sharding``, bytes.

        ``bytes`` are those of the whole, ``device_bytes`` what one device holds.
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

        Each has ``bytes``, which one device alone would hold, ``device_bytes``, which one of the
        mesh holds, and ``all_devices_bytes``, which all of them hold together.
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

        None: the model does not tell. What remat computes again is not counted.
        """
        if not isinstance(self._config, ModelConfig):
            return None
        per_token = describe(self._config).flops_per_token(self.stage.data.length)
        return 3.0 * per_token * self.tokens

    def compile(self) -> dict[str, Any]:
        """Compile the step, and ask XLA what it takes.

        Raises:
          ValueError: a layer cannot cut its time over as many devices.
          JaxRuntimeError: RESOURCE_EXHAUSTED where the compiler knows that memory is too small.

        Returns:
          ``trace_seconds``, ``compile_seconds``; ``flops``, of one device, a loop's body counted
          once (None where the backend does not tell); ``memory``, of one device: bytes of
          ``arguments``, ``outputs``, ``aliased`` (outputs in the place of arguments),
          ``temporary``, ``program``, and ``together``; None where the backend does not tell.
        """
        step = make_train_step(
            self._structure,
            self._optimizer,
            self._layout,
            self._placed.shardings,
            self._trainer.accumulate,
            self._trainer.on_nonfinite == "skip",
        )
        arguments = (self._parameters, self._state, self._carried(), self._batch())
        began = time.monotonic()
        lowered = step.lower(*arguments)
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
        source = self.stage.data.source(self._trainer.seed, "train")
        segments = Segments(Batches(source, rows, 0, mine), self._plan.segments)
        fields: dict[str, Any] = {}
        for name, value in device_fields(next(segments)).items():
            shape = (rows, *value.shape[1:])
            where = None if self._layout is None else self._layout.batch(shape)
            dtype = jax.dtypes.canonicalize_dtype(value.dtype)
            fields[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=where)
        if self._layout is not None and self._processes.count > 1:
            flag = self._layout.flag(False)
            fields[STOP] = jax.ShapeDtypeStruct(flag.shape, flag.dtype, sharding=flag.sharding)
        return fields

    def _carried(self) -> Any:
        """Shapes of the state that goes from a segment to the next; None: there is one segment."""
        if self._plan.segments == 1:
            return None
        fresh = make_fresh_state(self._structure, self._layout)
        rows, length = self.stage.batch_size, self.stage.data.length
        state = jax.eval_shape(lambda p: fresh(p, rows, length), self._parameters)
        return self._placed.state(state)


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
