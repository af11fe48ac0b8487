"""Preflight: the machine and the compiled training step before a run, in numbers and tables."""

import functools
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from rich.table import Table

from bmojo.cache import cache_directory
from bmojo.console import format_table
from bmojo.data.pipeline import Batches, Segments
from bmojo.layers.protocol import parameter_axes
from bmojo.ops.axes import Names
from bmojo.training import report
from bmojo.training.machine import from_system, size
from bmojo.training.report import git_revision, untested_versions
from bmojo.training.run_setup import RunSetup
from bmojo.training.train_step import STOP, device_fields
from bmojo.types import Array

ALL = "all"
"""The one axis of a mesh of all devices in a row."""

NOT_CUT = "-"
"""The sharding of an array that lies whole on every device."""

REPEATS = 5
MEBIBYTE = 2**20

Row = Mapping[str, Any]

# The machine


def versions() -> dict[str, str | None]:
    """Versions of bmojo, Python and packages, and the git revision of bmojo's source."""
    return report.versions() | {"git_revision": git_revision()}


def cache() -> dict[str, Any]:
    """The directory of compiled programs: whether it can be written, its entries and bytes."""
    directory = cache_directory() / "jax"
    problem = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        problem = error.strerror or str(error)
    # Another process may remove an entry meanwhile.
    found = [from_system(functools.partial(os.path.getsize, path)) for path in entries(directory)]
    sizes = [count for count in found if count is not None]
    free = from_system(lambda: shutil.disk_usage(directory).free)
    facts = {"directory": str(directory), "problem": problem, "entries": len(sizes)}
    return facts | {"bytes": sum(sizes), "free_bytes": free}


def entries(directory: Path) -> set[Path]:
    """Compiled programs in the directory of a cache."""
    return set(directory.glob("*-cache")) if directory.is_dir() else set()


# Its speed


def row_of_devices() -> Mesh:
    """All devices along the axis ``ALL``, neighbours of an accelerator side by side."""
    return jax.make_mesh((jax.device_count(),), (ALL,), axis_types=(AxisType.Auto,))


def collectives(
    mesh: Mesh, axis: str, mebibytes: int, repeats: int = REPEATS
) -> Iterator[dict[str, Any]]:
    """Time the four collectives that training uses, along one axis of a mesh.

    All-gather gives every device ``mebibytes`` MiB of float32 of which it held its part;
    reduce-scatter is the way back; all-reduce sums as much on every device; ppermute sends as
    much to the next device. Devices along the other axes do the same at the same time. Of the
    bytes, a device has to send (N - 1) / N in the first two, twice that in all-reduce, and all in
    ppermute; ``gigabytes_per_second`` are 1e9 of these by the median of ``seconds``.
    """
    count = mesh.shape[axis]
    numbers = mebibytes * MEBIBYTE // 4 // count * count
    share = (count - 1) / count
    ring = [(i, (i + 1) % count) for i in range(count)]
    kinds: tuple[tuple[str, int, float, Callable[[Array], Array]], ...] = (
        ("all-gather", numbers // count, share, lambda x: jax.lax.all_gather(x, axis, tiled=True)),
        ("reduce-scatter", numbers, share, lambda x: jax.lax.psum_scatter(x, axis, tiled=True)),
        ("all-reduce", numbers, 2 * share, lambda x: jax.lax.psum(x, axis)),
        ("ppermute", numbers, 1.0, lambda x: jax.lax.ppermute(x, axis, ring)),
    )
    # Every device has numbers of its own, whatever its place along the other axes.
    cut = PartitionSpec(mesh.axis_names)
    for name, held, sent, function in kinds:
        cut_up = jax.shard_map(function, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
        make = functools.partial(jnp.ones, mesh.size * held)
        x = jax.jit(make, out_shardings=NamedSharding(mesh, cut))()
        compile_seconds, seconds = _time(jax.jit(cut_up), (x,), repeats)
        facts = {"name": name, "axis": axis, "devices": count, "bytes": 4 * numbers}
        facts |= {"compile_seconds": compile_seconds, "seconds": seconds}
        yield facts | {"gigabytes_per_second": sent * 4 * numbers / seconds / 1e9}


def products(size: int, repeats: int = REPEATS) -> Iterator[dict[str, Any]]:
    """Time products of two square matrices, float32 and bfloat16, on this process's first device.

    ``gigaflops`` are 2 size^3 operations by the median of ``seconds``, in 1e9 a second.
    """
    for dtype in ("float32", "bfloat16"):
        x = jax.device_put(jnp.ones((size, size), dtype), jax.local_devices()[0])
        compile_seconds, seconds = _time(jax.jit(jnp.matmul), (x, x), repeats)
        times = {"compile_seconds": compile_seconds, "seconds": seconds}
        yield {"dtype": dtype, "size": size, **times, "gigaflops": 2 * size**3 / seconds / 1e9}


def _time(program: Any, arguments: tuple[Array, ...], repeats: int) -> tuple[float, float]:
    """Seconds to compile, and the median of running it."""
    began = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return compile_seconds, statistics.median(times)


# The training step


class Step:
    """The training step of a setup with the most tokens, in shapes, its layout being in force.

    Nothing here takes memory on a device until :meth:`compile`.
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
        parts = {"parameters": self._parameters, "optimizer state": self._state}
        rows = {}
        for name, tree in (parts | {"gradients": self._parameters}).items():
            leaves = jax.tree.leaves(tree)
            held = sum(map(_device_bytes, leaves))
            rows[name] = {"bytes": sum(map(_bytes, leaves)), "device_bytes": held}
            rows[name]["all_devices_bytes"] = self._layout.devices * held
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
          ``trace_seconds``, ``compile_seconds``; of one device, and None if unknown, ``flops``, a
          loop's body counted once, and ``memory``: bytes of ``arguments``, ``outputs``,
          ``aliased`` (outputs in the place of arguments), ``temporary``, ``program``, ``together``.
        """
        segmented = self._setup.curriculum.segments > 1
        carried = self._setup.state_shapes(self.stage) if segmented else None
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
        source = self.stage.data.source(self._setup.trainer.seed, "train")
        batches = Batches(source, rows, 0, self._layout.local_rows(rows))
        first = next(Segments(batches, self._setup.curriculum.segments))
        fields: dict[str, Any] = {}
        for name, value in device_fields(first).items():
            shape = (rows, *value.shape[1:])
            dtype = jax.dtypes.canonicalize_dtype(value.dtype)
            fields[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=self._layout.batch(shape))
        if self._setup.processes.count > 1:
            flag = self._layout.flag(False)
            fields[STOP] = jax.ShapeDtypeStruct(flag.shape, flag.dtype, sharding=flag.sharding)
        return fields


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _device_bytes(leaf: Any) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _sharding_text(leaf: Any) -> str:
    """Axes of the mesh that cut an array, such as '- fsdp tensor'; one sign if none does."""
    if leaf.sharding is None or _device_bytes(leaf) == _bytes(leaf):
        return NOT_CUT
    parts = [p if isinstance(p, tuple) else (p or NOT_CUT,) for p in leaf.sharding.spec]
    return " ".join(map("+".join, parts))


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
    names = {"arguments": "argument", "outputs": "output", "aliased": "alias"}
    names |= {"temporary": "temp", "program": "generated_code"}
    memory = {kind: getattr(stats, f"{name}_size_in_bytes") for kind, name in names.items()}
    return {**memory, "together": sum(memory.values()) - 2 * memory["aliased"]}


# Texts and tables


def lines(facts: Row) -> list[tuple[str, str]]:
    """Versions, processes, devices and cache, as pairs of a name and a text."""
    versions, here, cache = facts["versions"], facts["devices"], facts["cache"]
    revision = versions["git_revision"]
    found = [f"bmojo {versions['bmojo']}" + (f" at {revision[:12]}" if revision else "")]
    if revision and revision.endswith("+"):
        found[0] += " with changes"
    packages = [name for name in versions if name not in ("bmojo", "git_revision")]
    found += [f"{name} {versions[name] or 'is missing'}" for name in packages]
    each = here["by_process"]
    unlike = "by process: " + ", ".join(map(str, each))
    same = f"{each[0]} a process" if len(set(each)) == 1 else unlike
    memory = f"{size(here['memory_bytes'])} each"
    if here["memory_bytes"] is None:
        memory = f"the backend does not tell; this machine has {size(here['machine_memory_bytes'])}"
    held = f"{cache['entries']} programs, {size(cache['bytes'])}"
    state = cache["problem"] or f"{held}; {size(cache['free_bytes'])} free"
    how = facts["found_by"]
    return [
        ("versions", ", ".join(found)),
        *(("warning", text) for text in untested_versions()),
        ("processes", f"{here['processes']}, {how}; this is {here['process']} on {here['host']}"),
        ("devices", f"{here['all']} x {here['kind']} ({here['platform']}), {same}"),
        ("of this process", ", ".join(here["local"])),
        ("memory", memory),
        ("compile cache", f"{cache['directory']}: {state}"),
    ]


def product_table(rows: Iterable[Row]) -> Table:
    """Speed of matrix products."""
    columns = {"type": "{dtype}", "size": "{size}", "compile s": "{compile_seconds:.2f}"}
    columns |= {"s": "{seconds:.2g}", "GFLOP/s": "{gigaflops:,.1f}"}
    return _table("products of square matrices, one device", 2, columns, rows)


def collective_table(rows: Iterable[Row]) -> Table:
    """Speed of collectives."""
    columns = {"collective": "{name}", "along": "{axis}", "devices": "{devices}"}
    columns |= {"bytes": "{bytes}", "compile s": "{compile_seconds:.2f}", "s": "{seconds:.2g}"}
    columns |= {"GB/s a device": "{gigabytes_per_second:.3g}"}
    return _table("collectives, float32", 2, columns, rows)


def parameter_table(rows: Iterable[Row]) -> Table:
    """Shape, sharding and bytes of every parameter."""
    shown = []
    for row in rows:
        cut = "whole" if row["sharding"] == NOT_CUT else row["sharding"]
        shown.append({**row, "shape": " x ".join(map(str, row["shape"])), "cut": cut})
    columns = {"name": "{name}", "shape": "{shape}", "axes": "{axes}", "cut along": "{cut}"}
    columns |= {"bytes": "{bytes}", "bytes a device": "{device_bytes}"}
    return _table("parameters", 4, columns, shown)


def totals_table(rows: Mapping[str, Mapping[str, int]]) -> Table:
    """Bytes of a training on one device alone, and on the mesh."""
    shown = [
        {**row, "of": name, "share": row["device_bytes"] / max(row["bytes"], 1)}
        for name, row in rows.items()
    ]
    columns = {"of": "{of}", "one device alone": "{bytes}"}
    columns |= {"a device of the mesh": "{device_bytes}", "share": "{share:.3f}"}
    columns |= {"all devices together": "{all_devices_bytes}"}
    return _table("bytes of a training, without what a step needs for itself", 1, columns, shown)


def uncut_text(rows: Sequence[Row]) -> str:
    """The share of the parameters that no rule cuts."""
    whole = [row for row in rows if row["sharding"] == NOT_CUT]
    held = sum(row["bytes"] for row in whole)
    part = held / max(sum(row["bytes"] for row in rows), 1)
    return (
        f"{len(whole)} of {len(rows)} parameters are not cut and lie whole on every device: "
        f"{size(held)}, {part:.1%} of all"
    )


def _table(title: str, left: int, columns: Mapping[str, str], rows: Iterable[Row]) -> Table:
    """A table with so many columns on the left; fields that end in ``bytes`` by :func:`size`."""
    shown = ({k: size(v) if k.endswith("bytes") else v for k, v in row.items()} for row in rows)
    made = format_table(title, columns, shown, list(columns)[:left])
    made.title_justify = "left"
    for column in made.columns[:left]:
        column.overflow = "fold"
    return made
