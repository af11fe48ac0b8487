"""How fast devices compute and talk to each other."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bmojo.types import Array

ALL = "all"
"""The one axis of a mesh of all devices in a row."""

REPEATS = 5
MEBIBYTE = 2**20


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
