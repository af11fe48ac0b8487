"""Sharding: a mesh of devices, and rules that cut arrays along its axes.

``data`` and ``fsdp`` cut the rows of a batch; ``fsdp`` also cuts parameters and optimizer
state, each device fetching the others' parts when a layer needs them (ZeRO, arXiv 1910.02054);
``tensor`` cuts heads, SSM channels and hidden channels (arXiv 1909.08053); ``sequence`` cuts
time, with states passed from device to device (:mod:`bmojo.ops.collectives`).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bmojo.errors import suggestion
from bmojo.ops.axes import NAMES, Names, axis_rules, partition
from bmojo.training.config import check_types
from bmojo.training.parameters import Parameters
from bmojo.training.run_dir import RunError

AXES = ("data", "fsdp", "tensor", "sequence")

RULES = (
    ("batch", ("data", "fsdp")),
    ("length", "sequence"),
    ("embed", "fsdp"),
    ("vocab", "tensor"),
    ("lookup", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("inner", "tensor"),
    ("mlp", "tensor"),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; -1 stands for all devices that the other axes leave.

    Attributes:
      data: copies of the model, each with its own rows.
      fsdp: devices that share the parameters of a copy, each with its own rows.
      tensor: devices that share heads and channels.
      sequence: devices that share the time axis.
      rules: pairs of a name and the mesh axis or axes that cut it; a name left out is not
        cut. The names are those of :mod:`bmojo.ops.axes`.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    rules: tuple[Any, ...] = RULES

    def __post_init__(self) -> None:
        check_types(self)
        open_axes = [axis for axis in AXES if getattr(self, axis) == -1]
        for axis in AXES:
            size = getattr(self, axis)
            if size < 1 and size != -1:
                raise ValueError(f"Mesh.{axis}: {size} is no size; give at least 1, or -1")
        if len(open_axes) > 1:
            raise ValueError(
                f"Mesh.{open_axes[1]}: {' and '.join(open_axes)} are both -1; "
                "leave at most one axis open"
            )
        if self.table.get("length") not in (None, (), ("sequence",)):
            raise ValueError("Mesh.rules: 'length' is cut by 'sequence' or not at all")

    @property
    def table(self) -> dict[str, tuple[str, ...]]:
        """The rules: name -> axes of the mesh."""
        table: dict[str, tuple[str, ...]] = {}
        for rule in self.rules:
            if not isinstance(rule, tuple) or len(rule) != 2 or not isinstance(rule[0], str):
                raise TypeError(
                    f"Mesh.rules: {rule!r} is no rule; write (name, axis), such as "
                    "('embed', 'fsdp')"
                )
            name, axes = rule[0], (rule[1],) if isinstance(rule[1], str) else tuple(rule[1] or ())
            problem = ""
            if name not in NAMES:
                problem = f"no axis is called {name!r}; {suggestion(name, NAMES)}"
            elif name in table:
                problem = f"two rules for {name!r}; leave one out"
            for axis in set(axes) - set(AXES):
                problem = problem or f"the mesh has no axis {axis!r}; {suggestion(axis, AXES)}"
            if problem:
                raise ValueError(f"Mesh.rules: {problem}")
            table[name] = axes
        return table

    def shape(self, devices: int) -> tuple[int, ...]:
        """Sizes of the four axes over so many devices; RunError if they do not fill them."""
        sizes = [getattr(self, axis) for axis in AXES]
        fixed = math.prod(size for size in sizes if size != -1)
        written = " x ".join(f"{a} {s}" for a, s in zip(AXES, sizes, strict=True))
        if -1 not in sizes and fixed != devices:
            raise RunError(
                f"Mesh: {written} asks for {fixed} devices, {devices} are here; change the sizes "
                "or leave one axis at -1"
            )
        if devices % fixed:
            raise RunError(
                f"Mesh: {written} does not divide the {devices} devices here; choose sizes "
                f"whose product divides {devices}"
            )
        return tuple(devices // fixed if size == -1 else size for size in sizes)


class Layout:
    """The places of arrays: on a mesh of all devices or those given, or on one device.

    Attributes:
      mesh: None on one device, where nothing is cut.
      sizes: of the mesh, by axis.
    """

    def __init__(self, config: MeshConfig | None, devices: Sequence[Any] | None = None):
        self.mesh: Mesh | None = None
        self.sizes = dict.fromkeys(AXES, 1)
        self._rules: dict[str, tuple[str, ...]] = {}
        if config is None:
            return
        devices = jax.devices() if devices is None else list(devices)
        shape, kinds = config.shape(len(devices)), (AxisType.Auto,) * len(AXES)
        # make_mesh knows which devices of an accelerator are neighbours.
        self.mesh = jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
        self.sizes = dict(zip(AXES, shape, strict=True))
        for name, axes in config.table.items():
            self._rules[name] = tuple(axis for axis in axes if self.sizes[axis] > 1)

    @property
    def devices(self) -> int:
        """Devices that share the work."""
        return math.prod(self.sizes.values())

    @property
    def sequence(self) -> int:
        """Devices along time."""
        return self.sizes["sequence"] if self._rules.get("length") else 1

    @property
    def rows(self) -> int:
        """Parts that the rows of a batch are cut into."""
        return self._parts("batch")

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Compile and run for this mesh inside."""
        if self.mesh is None:
            yield
            return
        # Time is cut by shard_map, inside of which its axis must not be named.
        inside = {name: axes for name, axes in self._rules.items() if name != "length"}
        with jax.set_mesh(self.mesh), axis_rules(inside):
            yield

    def sharding(self, *names: str | None) -> NamedSharding | None:
        """The sharding of an array whose axes have these names; None on one device."""
        return NamedSharding(self.mesh, partition(names, self._rules)) if self.mesh else None

    def parameters(self, axes: Mapping[str, Names], shapes: Parameters) -> Any:
        """Shapes of parameters with their shardings; RunError if one cannot be cut evenly.

        A parameter without axis names lies on every device.
        """
        placed = {}
        for name, value in shapes.items():
            names = axes.get(name, ())
            for size, axis in zip(value.shape, names, strict=False):
                if size % (parts := self._parts(axis)):
                    raise RunError(
                        f"Mesh.{self._rules[axis or ''][0]}: {parts} does not divide the {size} of "
                        f"parameter {name} of shape {tuple(value.shape)}; choose a divisor, or "
                        f"leave {axis!r} out of Mesh.rules"
                    )
            placed[name] = self._placed(value, *names)
        return placed

    def optimizer(self, parameters: Any, state: Any) -> Any:
        """Shapes of an optimizer's state with shardings: moments lie where their parameters do."""

        def of(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
            name = getattr(path[-1], "key", "") if path else ""
            if leaf.ndim and name in parameters:
                where = parameters[name].sharding
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
            return self._placed(leaf)

        return jax.tree_util.tree_map_with_path(of, state)

    def batch(self, shape: tuple[int, ...]) -> NamedSharding | None:
        """The sharding of a field of a batch, (B,) or (B, L)."""
        return self.sharding(*("batch", "length")[: len(shape)])

    def state(self, state: Any) -> Any:
        """Shapes of a model's state with shardings; arrays are stacked layers, then rows."""
        return jax.tree.map(lambda leaf: self._placed(leaf, None, "batch"), state)

    def constrain(self, arrays: Any, shardings: Any) -> Any:
        """In a compiled function: arrays with these shardings; as they are on one device."""
        return arrays if self.mesh is None else jax.lax.with_sharding_constraint(arrays, shardings)

    def check(self, what: str, length: int, rows: int = 0) -> None:
        """Check that time and rows of a batch can be cut evenly; RunError if not."""
        if rows % self.rows:
            raise RunError(
                f"{what}: {rows} rows cannot be shared evenly by {self.rows} devices (Mesh.data "
                f"x Mesh.fsdp); give a multiple of {self.rows}"
            )
        if length % self.sequence:
            raise RunError(
                f"{what}: {length} tokens cannot be shared evenly by Mesh.sequence = "
                f"{self.sequence} devices; give a multiple"
            )

    def local_rows(self, rows: int) -> tuple[int, int]:
        """First of the rows of a batch that this process's devices hold, and the one after them.

        RunError if they do not lie together.
        """
        where = self.batch((rows,))
        if where is None:
            return 0, rows
        held = where.addressable_devices_indices_map((rows,)).values()
        spans = sorted({part[0].indices(rows)[:2] for part in held})  # type: ignore[index]
        for (_, end), (begin, _) in zip(spans, spans[1:], strict=False):
            if end != begin:
                raise RunError(
                    "Mesh: the rows of this process's devices do not lie together; give Mesh.data "
                    "a multiple of the number of processes, or of 1"
                )
        return spans[0][0], spans[-1][1]

    def put(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, Any]:
        """The rows of a batch that :meth:`local_rows` names, as parts of arrays on the mesh."""
        if self.mesh is None:
            return dict(batch)
        first, _ = self.local_rows(rows)

        def of(value: np.ndarray) -> jax.Array:
            shape = (rows, *value.shape[1:])

            def part(index: Any) -> np.ndarray:
                begin, end, _ = index[0].indices(rows)
                return value[(slice(begin - first, end - first), *index[1:])]

            where: Any = self.batch(shape)
            return jax.make_array_from_callback(shape, where, part)

        return {name: of(value) for name, value in batch.items()}

    def flag(self, number: int) -> jax.Array:
        """An array on the mesh with one number a device, given by the device's process."""
        assert self.mesh is not None
        sharding, mine = NamedSharding(self.mesh, PartitionSpec(AXES)), np.full(1, number, np.int32)
        return jax.make_array_from_callback((self.mesh.size,), sharding, lambda index: mine)

    def settle(self, arrays: Any) -> Any:
        """``arrays``; on forced host devices, after waiting for them.

        Those devices share few threads: two programs in flight could wait for each other for ever.
        """
        if self.mesh is not None and self.mesh.devices.flat[0].platform == "cpu":
            jax.block_until_ready(arrays)
        return arrays

    def _placed(self, leaf: Any, *names: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(*names))

    def _parts(self, name: str | None) -> int:
        return math.prod(self.sizes[axis] for axis in self._rules.get(name or "", ()))

    def __str__(self) -> str:
        return " x ".join(f"{axis} {size}" for axis, size in self.sizes.items())


ONE_DEVICE = Layout(None)


def make_layout(config: MeshConfig | None, processes: int = 1) -> Layout:
    """The layout of a config; RunError if several processes have none, or it does not fit."""
    if config is None and processes > 1:
        raise RunError(
            f"Experiment.mesh: {processes} processes need a mesh; add Experiment.mesh=@Mesh()"
        )
    return Layout(config) if config is not None else ONE_DEVICE


def shardings_of(shapes: Any) -> Any:
    """The shardings of shapes; None if they have none."""
    if any(leaf.sharding is None for leaf in jax.tree.leaves(shapes)):
        return None
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)
