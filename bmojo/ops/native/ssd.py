"""Mamba-2's recurrence in C++, for CPUs: what is handed over, and its derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import chunks
from bmojo.ops.native import library
from bmojo.types import Array, Bool, Float

GROUPS = 2
"""The most parts of the heads whose derivatives by B and C are added up apart, each by one
thread a row. A number of the machine would let results depend on it."""

LANES = 16
"""The most numbers of a vector, to whole ones of which rows of kept states are filled up."""


def scan(
    x: Float[Array, "B L H P"],
    dt: Float[Array, "B L H"],
    A: Float[Array, "H"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B H P N"],
    start: Bool[Array, "B L"] | None,
    chunk_size: int,
) -> tuple[Float[Array, "B L H P"], Float[Array, "B H P N"]]:
    """The recurrence of :func:`bmojo.ops.ssd.ssd`, float32 or float64.

    The matrices of a chunk stay in cache. The backward pass keeps the states at chunk
    boundaries. Threads share rows and heads; results do not depend on how many there are.
    Reverse derivatives of first order only.

    Raises:
      ValueError: there are no kernels on this machine.
    """
    library.require()
    size = chunks.plan(x.shape[1], chunk_size)[1]
    flags = jnp.zeros((x.shape[0], 0), bool) if start is None else start
    return _scan(size, x, dt, A, B, C, flags, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(size, x, dt, A, B, C, start, state):
    y, last, _ = _forward(size, 0, x, dt, A, B, C, start, state)
    return y, last


def _forward(size, places, x, *operands):
    """Outputs, the last state, and the state before each of the first ``places`` chunks."""
    state = operands[-1]
    rows, heads, width, states = state.shape
    before = (rows, heads, places, states, -(-width // LANES) * LANES)
    made = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in (x.shape, state.shape, before)]
    return _call("ssd", made)(x, *operands, chunk=np.int64(size))


def _save(size, x, dt, A, B, C, start, state):
    places = -(-x.shape[1] // size)
    y, last, before = _forward(size, places, x, dt, A, B, C, start, state)
    return (y, last), (x, dt, A, B, C, start, before)


def _backward(size, saved, cotangents):
    x, dt, A, B, C, start, before = saved
    dy, dlast = cotangents
    parts = (min(GROUPS, x.shape[2]), *B.shape)
    shapes = (x.shape, dt.shape, dlast.shape[:2], parts, parts, dlast.shape)
    made = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    dx, ddt, dA, dB, dC, dstate = _call("ssd_gradient", made)(
        x, dt, A, B, C, start, before, dy, dlast, chunk=np.int64(size)
    )
    return dx, ddt, dA.sum(0), sum(dB), sum(dC), None, dstate


_scan.defvjp(_save, _backward)


def _call(name, made):
    bits = jnp.finfo(made[0].dtype).bits
    return jax.ffi.ffi_call(f"bmojo_{name}_f{bits}", made, vmap_method="sequential")
