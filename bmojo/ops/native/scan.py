"""The selective scan in C++, for CPUs: what is handed over, and its derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import chunks
from bmojo.ops.native import library
from bmojo.types import Array, Bool, Float

CHUNK_SIZE = 16
"""Tokens of a chunk, or N where N is larger: the states kept are no larger than the inputs."""

WIDTH = 32
"""The most channels of a block, whose states lie together between the passes."""

GROUPS = 8
"""The most parts of the channels whose derivatives by B and C are added up apart: work for as
many threads a row. A number of the machine would let results depend on it."""


def scan(
    x: Float[Array, "B L E"],
    dt: Float[Array, "B L E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B E N"],
    start: Bool[Array, "B L"] | None,
    chunk_size: int | None = None,
) -> tuple[Float[Array, "B L E"], Float[Array, "B E N"]]:
    """The scan of :func:`bmojo.ops.recurrence.selective_scan`, float32 or float64.

    A block of channels stays in cache while it goes through time. The backward pass keeps the
    states at chunk boundaries and computes the others again. Threads share rows and channels;
    results do not depend on how many there are. Reverse derivatives of first order only.

    Raises:
      ValueError: there are no kernels on this machine.
    """
    library.require()
    size = chunks.plan(x.shape[1], chunk_size or max(CHUNK_SIZE, A.shape[1]))[1]
    flags = jnp.zeros((x.shape[0], 0), bool) if start is None else start
    return _scan(size, x, dt, A, B, C, flags, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(size, x, dt, A, B, C, start, state):
    y, last, _ = _forward(size, 0, x, dt, A, B, C, start, state)
    return y, last


def _forward(size, places, x, *operands):
    """Outputs, the last state, and the state before each of the first ``places`` chunks."""
    state = operands[-1]
    rows, channels, states = state.shape
    before = (rows, places, states, -(-channels // WIDTH) * WIDTH)
    made = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in (x.shape, state.shape, before)]
    return _call("scan", made)(x, *operands, chunk=np.int64(size))


def _save(size, x, dt, A, B, C, start, state):
    places = -(-x.shape[1] // size)
    y, last, before = _forward(size, places, x, dt, A, B, C, start, state)
    return (y, last), (x, dt, A, B, C, start, before)


def _backward(size, saved, cotangents):
    x, dt, A, B, C, start, before = saved
    dy, dlast = cotangents
    # What the parts take is no larger than x.
    parts = (max(1, min(GROUPS, x.shape[2] // (2 * B.shape[2]))), *B.shape)
    shapes = (x.shape, x.shape, dlast.shape, parts, parts, dlast.shape)
    made = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    dx, ddt, dA, dB, dC, dstate = _call("scan_gradient", made)(
        x, dt, A, B, C, start, before, dy, dlast, chunk=np.int64(size)
    )
    return dx, ddt, dA.sum(0), sum(dB), sum(dC), None, dstate


_scan.defvjp(_save, _backward)


def _call(name, made):
    bits = jnp.finfo(made[0].dtype).bits
    return jax.ffi.ffi_call(f"bmojo_{name}_f{bits}", made, vmap_method="sequential")
