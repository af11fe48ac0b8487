"""Which device a kernel is made for, and how much of its memory a kernel may take."""

import dataclasses
import functools
import logging
from typing import Literal

import jax
import jax.numpy as jnp

from bmojo.types import Array

VMEM = 12 * 2**20
"""Bytes that the blocks and the scratch of one TPU kernel may take: of the 16 MiB that the
compiler grants a kernel, a quarter is left to its temporaries."""

LANES = 128
"""Numbers along the last axis of a TPU register; shorter ones are padded in memory."""

SUBLANES = 8
"""Rows of a TPU register of 32-bit numbers."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a kernel is made for.

    Attributes:
      device: the form of the kernel.
      interpret: run it in Pallas' interpreter, on whatever device there is.
    """

    device: Literal["tpu", "gpu"]
    interpret: bool = False


def here() -> Target:
    """The device of JAX's default backend; elsewhere the TPU's kernels are interpreted."""
    return _of_backend(jax.default_backend())


@functools.cache
def _of_backend(backend: str) -> Target:
    if backend == "tpu":
        return Target("tpu")
    if backend in ("gpu", "cuda", "rocm"):
        return Target("gpu")
    logger.warning(
        "pallas kernels on %s: interpreted, which is slow; for tests of the kernels", backend
    )
    return Target("tpu", interpret=True)


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def power_of_2(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def pad(x: Array, axis: int, size: int, value: float | int = 0) -> Array:
    """``x`` with ``value`` behind its end along an axis, up to a size."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths, constant_values=value)


def tiled_bytes(*shape: int, itemsize: int = 4) -> int:
    """Bytes of an array in a TPU's vector memory, whose last two axes are padded to tiles."""
    rows = SUBLANES * max(1, 4 // itemsize)
    *rest, second, last = shape
    total = round_up(second, rows) * round_up(last, LANES) * itemsize
    for size in rest:
        total *= size
    return total


def like(x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
