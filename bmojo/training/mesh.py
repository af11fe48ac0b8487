"""Which device holds what: a mesh of devices, and rules that cut arrays along its axes.

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
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bmojo.errors import suggestion
from bmojo.ops.axes import NAMES, Names, axis_rules, partition
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
    """How the devices are arranged; -1 stands for all that the other axes leave.

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
        open_axes = [axis for axis in AXES if getattr(self, axis) == -1]
        for axis in AXES:
            size = getattr(self, axis)
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"Mesh.{axis}: {size!r} is not an integer; give a size, or -1")
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
            name, axes = rule
            axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
            if name not in NAMES:
                raise ValueError(
                    f"Mesh.rules: no axis is called {name!r}; {suggestion(name, NAMES)}"
                )
            for axis in axes:
                if axis not in AXES:
                    raise ValueError(
                        f"Mesh.rules: the mesh has no axis {axis!r}; {suggestion(axis, AXES)}"
                    )
            if name in table:
                raise ValueError(f"Mesh.rules: two rules for {name!r}; leave one out")
            table[name] = axes
        return table

    def shape(self, devices: int) -> tuple[int, ...]:
        """Sizes of the four axes over so many devices.

        Raises:
          RunError: they do not fill the devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
        fixed = math.prod(size for size in sizes if size != -1)
        written = " x ".join(f"{a} {s}" for a, s in zip(AXES, sizes, strict=True))
        if -1 in sizes:
            if devices % fixed:
                raise RunError(
                    f"Mesh: {written} does not divide the {devices} devices here; choose sizes "
                    f"whose product divides {devices}"
                )
            return tuple(devices // fixed if size == -1 else size for size in sizes)
        if fixed != devices:
            raise RunError(
                f"Mesh: {written} asks for {fixed} devices, {devices} are here; change the sizes "
                "or leave one axis at -1"
            )
        return tuple(sizes)


class Layout:
    """Where arrays lie on a mesh.

    Args:
      config: sizes and rules.
      devices: to use; None: all of all processes.
    """

    def __init__(self, config: MeshConfig, devices: Sequence[Any] | None = None):
        devices = jax.devices() if devices is None else list(devices)
        self.shape = config.shape(len(devices))
        # make_mesh knows which devices of an accelerator are neighbours.
        kinds = (AxisType.Auto,) * len(AXES)
        self.mesh = jax.make_mesh(self.shape, AXES, axis_types=kinds, devices=devices)
        self.sizes = dict(zip(AXES, self.shape, strict=True))
        self._rules: Mapping[str, tuple[str, ...]] = {
            name: tuple(axis for axis in axes if self.sizes[axis] > 1)
            for name, axes in config.table.items()
        }

    @property
    def sequence(self) -> int:
        """Devices along time."""
        return self.sizes["sequence"] if self._rules.get("length") else 1

    @property
    def rows(self) -> int:
        """Parts that the rows of a batch are cut into."""
        return math.prod(self.sizes[axis] for axis in self._rules.get("batch", ()))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Compile and run for this mesh inside."""
        # Time is cut by shard_map, inside of which its axis must not be named.
        inside = {name: axes for name, axes in self._rules.items() if name != "length"}
        with jax.set_mesh(self.mesh), axis_rules(inside):
            yield

    def sharding(self, *names: str | None) -> NamedSharding:
        """Of an array whose axes have these names."""
        return NamedSharding(self.mesh, partition(names, self._rules))

    def parameters(self, axes: Mapping[str, Names], shapes: Parameters) -> dict[str, NamedSharding]:
        """Of every parameter; one whose axes nobody named lies on every device.

        Raises:
          RunError: an axis of a parameter cannot be cut evenly.
        """
        shardings = {}
        for name, value in shapes.items():
            names = axes.get(name, ())
            for size, axis in zip(value.shape, names, strict=False):
                self._divides(size, axis, f"parameter {name} of shape {tuple(value.shape)}")
            shardings[name] = self.sharding(*names)
        return shardings

    def optimizer(self, parameters: Mapping[str, NamedSharding], state: Any) -> Any:
        """Of an optimizer's state, whose moments lie where their parameters do."""

        def of(path: Any, leaf: Any) -> NamedSharding:
            name = getattr(path[-1], "key", "") if path else ""
            return parameters[name] if leaf.ndim and name in parameters else self.sharding()

        return jax.tree_util.tree_map_with_path(of, state)

    def batch(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of a field of a batch, (B,) or (B, L)."""
        return self.sharding(*("batch", "length")[: len(shape)])

    def state(self, state: Any) -> Any:
        """Of a model's state, whose arrays are stacked layers, then rows."""
        return jax.tree.map(lambda leaf: self.sharding(None, "batch"), state)

    def check(self, what: str, rows: int, length: int) -> None:
        """See that a batch can be cut; see also :meth:`check_length`.

        Raises:
          RunError: its rows or its time cannot be.
        """
        if rows % self.rows:
            raise RunError(
                f"{what}: {rows} rows cannot be shared evenly by {self.rows} devices (Mesh.data "
                f"x Mesh.fsdp); give a multiple of {self.rows}"
            )
        self.check_length(what, length)

    def check_length(self, what: str, length: int) -> None:
        """See that time can be cut.

        Raises:
          RunError: it cannot be.
        """
        if length % self.sequence:
            raise RunError(
                f"{what}: {length} tokens cannot be shared evenly by Mesh.sequence = "
                f"{self.sequence} devices; give a multiple"
            )

    def local_rows(self, rows: int) -> tuple[int, int]:
        """First of the rows of a batch that this process's devices hold, and the one after them.

        Raises:
          RunError: they do not lie together.
        """
        held = self.batch((rows,)).addressable_devices_indices_map((rows,)).values()
        spans = sorted({part[0].indices(rows)[:2] for part in held})  # type: ignore[index]
        for (_, end), (begin, _) in zip(spans, spans[1:], strict=False):
            if end != begin:
                raise RunError(
                    "Mesh: the rows of this process's devices do not lie together; give Mesh.data "
                    "a multiple of the number of processes, or of 1"
                )
        return spans[0][0], spans[-1][1]

    def put(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """The rows of a batch that :meth:`local_rows` tells, as parts of arrays on the mesh."""
        first, _ = self.local_rows(rows)

        def of(value: np.ndarray) -> jax.Array:
            shape = (rows, *value.shape[1:])

            def part(index: Any) -> np.ndarray:
                begin, end, _ = index[0].indices(rows)
                return value[(slice(begin - first, end - first), *index[1:])]

            return jax.make_array_from_callback(shape, self.batch(shape), part)

        return {name: of(value) for name, value in batch.items()}

    def flag(self, number: int) -> jax.Array:
        """One number a device: that which its process gives."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXES))

        def mine(index: Any) -> np.ndarray:
            return np.full(1, number, np.int32)

        return jax.make_array_from_callback((self.mesh.size,), sharding, mine)

    def settle(self, arrays: Any) -> Any:
        """``arrays``, on forced host devices once they are there.

        Those share few threads: two programs in flight could wait for each other for ever.
        """
        if self.mesh.devices.flat[0].platform == "cpu":
            jax.block_until_ready(arrays)
        return arrays

    def _divides(self, size: int, name: str | None, what: str) -> None:
        axes = self._rules.get(name, ()) if name else ()
        parts = math.prod(self.sizes[axis] for axis in axes)
        if size % parts:
            raise RunError(
                f"Mesh.{axes[0]}: {parts} does not divide the {size} of {what}; choose a divisor, "
                f"or leave {name!r} out of Mesh.rules"
            )

    def __str__(self) -> str:
        return " x ".join(f"{axis} {size}" for axis, size in self.sizes.items())


def make_layout(config: MeshConfig | None, processes: int = 1) -> Layout | None:
    """The layout of a config; None: on one device.

    Raises:
      RunError: the mesh does not fit the devices, or several processes have none.
    """
    if config is not None:
        return Layout(config)
    if processes > 1:
        raise RunError(
            f"Experiment.mesh: {processes} processes need to know who does what; add "
            "Experiment.mesh=@Mesh()"
        )
    return None


def spec_text(sharding: NamedSharding) -> str:
    """A sharding in a few words, such as '- fsdp tensor'; '-' is an axis that is not cut."""
    spec: PartitionSpec = sharding.spec
    words = ["+".join(p) if isinstance(p, tuple) else str(p or "-") for p in spec]
    return " ".join(words) or "-"
