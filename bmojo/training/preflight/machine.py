"""The machine before a run: versions, devices, cache of compiled programs, speed, as tables."""

import functools
import os
import platform
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from rich.table import Table

import bmojo
from bmojo.cache import cache_directory
from bmojo.multihost import Processes
from bmojo.training.report import PACKAGES, git_revision, untested_versions, version
from bmojo.types import Array

ALL = "all"
"""The one axis of a mesh of all devices in a row."""

REPEATS = 5
MEBIBYTE = 2**20
UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def versions() -> dict[str, str | None]:
    """Versions of Python, bmojo and its packages, and the git revision of bmojo's source."""
    return {
        "python": platform.python_version(),
        "bmojo": bmojo.__version__,
        "git_revision": git_revision(),
        **{name: version(name) for name in PACKAGES},
    }


def devices(processes: Processes) -> dict[str, Any]:
    """Devices of this process and of all, and the memory of one of this process.

    ``memory_bytes`` is the memory that the backend gives to a program, None if unknown;
    ``machine_memory_bytes`` the memory of this machine, which devices of the CPU share.
    """
    local = jax.local_devices()
    limits = [_memory(device) for device in local]
    known = [limit for limit in limits if limit is not None]
    return {
        "host": socket.gethostname(),
        "platform": local[0].platform,
        "kind": local[0].device_kind,
        "process": processes.index,
        "processes": processes.count,
        "local": [str(device) for device in local],
        "all": jax.device_count(),
        "by_process": [
            sum(device.process_index == index for device in jax.devices())
            for index in range(processes.count)
        ],
        "memory_bytes": min(known) if len(known) == len(local) else None,
        "machine_memory_bytes": _from_system(
            lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        ),
    }


def cache() -> dict[str, Any]:
    """The directory of compiled programs: whether it can be written, its entries and bytes."""
    directory = cache_directory() / "jax"
    problem = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-"):
            pass
    except OSError as error:
        problem = error.strerror or str(error)
    # Another process may remove an entry meanwhile.
    found = [_from_system(functools.partial(os.path.getsize, path)) for path in entries(directory)]
    sizes = [count for count in found if count is not None]
    return {
        "directory": str(directory),
        "problem": problem,
        "entries": len(sizes),
        "bytes": sum(sizes),
        "free_bytes": _from_system(lambda: shutil.disk_usage(directory).free),
    }


def entries(directory: Path) -> set[Path]:
    """Compiled programs in the directory of a cache."""
    return set(directory.glob("*-cache")) if directory.is_dir() else set()


def _memory(device: Any) -> int | None:
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except Exception:  # Each backend without statistics has its own error.
        return None


def _from_system(read: Callable[[], int]) -> int | None:
    """A number that the system may not have; None then."""
    try:
        return read()
    except (ValueError, OSError):
        return None


def row_of_devices(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices along the axis ``ALL``, neighbours of an accelerator side by side."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), (ALL,), axis_types=(AxisType.Auto,), devices=devices)


def collectives(
    mesh: Mesh, axis: str, mebibytes: int, repeats: int = REPEATS
) -> Iterator[dict[str, Any]]:
    """Time the four collectives that training uses, along one axis of a mesh.

    All-gather gives every device ``mebibytes`` MiB of float32 of which it held its part;
    reduce-scatter is the way back; all-reduce sums as much on every device; ppermute sends as
    much to the next device. Devices along the other axes do the same at the same time.

    Yields:
      For each: ``name``, ``axis``, ``devices`` (along the axis), ``bytes``,
      ``compile_seconds``, the median of ``seconds``, and ``gigabytes_per_second``, 1e9 bytes
      that a device has to send, by the median: (N - 1) / N of the bytes for all-gather and
      reduce-scatter, twice that for all-reduce, all for ppermute.
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
        program = jax.jit(
            jax.shard_map(function, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
        )
        x = jax.jit(
            lambda held=held: jnp.ones(mesh.size * held), out_shardings=NamedSharding(mesh, cut)
        )()
        compile_seconds, seconds = _time(program, (x,), repeats)
        yield {
            "name": name,
            "axis": axis,
            "devices": count,
            "bytes": 4 * numbers,
            "compile_seconds": compile_seconds,
            "seconds": seconds,
            "gigabytes_per_second": sent * 4 * numbers / seconds / 1e9,
        }


def products(size: int, repeats: int = REPEATS) -> Iterator[dict[str, Any]]:
    """Time products of two square matrices on the first device of this process.

    Yields:
      For float32 (at JAX's default precision) and bfloat16: ``dtype``, ``size``,
      ``compile_seconds``, the median of ``seconds``, ``gigaflops``: 2 size^3 operations by it,
      1e9 a second.
    """
    for dtype in ("float32", "bfloat16"):
        x = jax.device_put(jnp.ones((size, size), dtype), jax.local_devices()[0])
        compile_seconds, seconds = _time(jax.jit(jnp.matmul), (x, x), repeats)
        yield {
            "dtype": dtype,
            "size": size,
            "compile_seconds": compile_seconds,
            "seconds": seconds,
            "gigaflops": 2 * size**3 / seconds / 1e9,
        }


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


def size(number: float | None) -> str:
    """A number of bytes in a few characters."""
    if number is None:
        return "unknown"
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.4g} {name}"
    return f"{number:.0f} bytes"


def lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions, processes, devices and cache, as pairs of a name and a text."""
    versions, here, cache = facts["versions"], facts["devices"], facts["cache"]
    revision = versions["git_revision"]
    found = [f"bmojo {versions['bmojo']}" + (f" at {revision[:12]}" if revision else "")]
    if revision and revision.endswith("+"):
        found[0] += " with changes"
    packages = versions.keys() - {"bmojo", "git_revision"}
    found += [f"{name} {versions[name] or 'is missing'}" for name in versions if name in packages]
    each = here["by_process"]
    same = f"{each[0]} a process"
    if len(set(each)) > 1:
        same = "by process: " + ", ".join(map(str, each))
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


def product_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Speed of matrix products."""
    columns = {"type": "{dtype}", "size": "{size}", "compile s": "{compile_seconds:.2f}"}
    columns |= {"s": "{seconds:.2g}", "GFLOP/s": "{gigaflops:,.1f}"}
    return table("products of square matrices, one device", 2, columns, rows)


def collective_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Speed of collectives."""
    columns = {"collective": "{name}", "along": "{axis}", "devices": "{devices}"}
    columns |= {"bytes": "{bytes}", "compile s": "{compile_seconds:.2f}", "s": "{seconds:.2g}"}
    columns |= {"GB/s a device": "{gigabytes_per_second:.3g}"}
    return table("collectives, float32", 2, columns, rows)


def table(
    title: str, left: int, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]
) -> Table:
    """A table of rows with named fields.

    Args:
      title: above the table.
      left: columns that are flush left; the others are numbers.
      columns: the format of each column, by its heading. Fields whose name ends in ``bytes``
        are shown by :func:`size`.
      rows: with the fields.
    """
    made = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        if index < left:
            made.add_column(name, overflow="fold")
        else:
            made.add_column(name, justify="right")
    for row in rows:
        shown = {k: size(v) if k.endswith("bytes") else v for k, v in row.items()}
        made.add_row(*(column.format(**shown) for column in columns.values()))
    return made
