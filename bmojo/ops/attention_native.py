"""Memory and causal attention by a C++ kernel for CPUs.

A block of at most 64 rows of queries looks at tiles of 64 keys, whose products, weights and sums
stay in a core's caches. As there, the backward pass computes the weights again from the output
and two numbers for each query and head (FlashAttention, arXiv 2205.14135). Arrays lie as the
layers make them, time before heads: nothing is transposed, padded or gathered outside.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.masks import Slots
from bmojo.ops.native import library
from bmojo.types import Array, Float, Int, at_least_float32

ANY = 2**31 - 1
"""A distance that no slot has."""


class _Reach(NamedTuple):
    """Which distances are seen: of tokens 0 .. window - 1, of slots near .. far - 1."""

    window: int  # 0: the whole past
    near: int
    far: int


class _Operands(NamedTuple):
    """Arrays of one dtype, and whole numbers; empty where a form has none."""

    q: Float[Array, "B L H P"]
    k: Float[Array, "B S G P"]
    v: Float[Array, "B S G P"]
    tail_k: Float[Array, "B T G P"]
    tail_v: Float[Array, "B T G P"]
    slot_k: Float[Array, "B C M G P"]
    slot_v: Float[Array, "B C M G P"]
    distance: Int[Array, "B C M"]
    segment_pos: Int[Array, "B L"]
    offset: Int[Array, "B"]
    position: Int[Array, "..."]


def memory_attention(
    q, k, v, tail_k, tail_v, segment_pos, *, window, slots=None, slot_range=(0, None), offset=None
) -> Float[Array, "B L H P"]:
    """:func:`bmojo.ops.memory_attention.memory_attention` by the kernel.

    Computed in float32, or float64 if an operand is wider. All heads share their slots.

    Raises:
      BuildError: there are no kernels on this machine.
    """
    if slots is None or not slots.k.shape[2]:
        rows, _, groups, width = k.shape
        nothing = jnp.zeros((rows, 1, 0, groups, width), k.dtype)
        slots = Slots(nothing, nothing, jnp.zeros((rows, 1, 1, 0), jnp.int32))
    near, far = slot_range
    reach = _Reach(window, near, ANY if far is None else far)
    floats = (q, k, v, tail_k, tail_v, slots.k, slots.v)
    if offset is None:
        offset = jnp.zeros(q.shape[:1], jnp.int32)
    return _call(
        reach, v, floats, slots.distance[:, :, 0], segment_pos, offset, jnp.zeros((0,), jnp.int32)
    )


def causal_attention(q, k, v, segment_pos, position=None) -> Float[Array, "B L H P"]:
    """:func:`bmojo.ops.memory_attention.causal_attention` by the kernel.

    Raises:
      BuildError: there are no kernels on this machine.
    """
    rows, _, groups, width = k.shape
    if position is None:
        position = jnp.broadcast_to(jnp.arange(q.shape[1], dtype=jnp.int32), segment_pos.shape)
    tail = jnp.zeros((rows, 0, groups, width), k.dtype)
    held = jnp.zeros((rows, 1, 0, groups, width), k.dtype)
    distance, offset = jnp.zeros((rows, 1, 0), jnp.int32), jnp.zeros((rows,), jnp.int32)
    floats = (q, k, v, tail, tail, held, held)
    return _call(_Reach(0, 0, ANY), v, floats, distance, segment_pos, offset, position)


def _call(reach: _Reach, v: Array, floats: tuple[Array, ...], *whole: Array) -> Array:
    """The kernel's output in the dtype of ``v``."""
    library.require()
    wide = at_least_float32(*(x.dtype for x in floats))
    numbers = (x.astype(jnp.int32) for x in whole)
    operands = _Operands(*(x.astype(wide) for x in floats), *numbers)
    return _attend(reach, operands).astype(v.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(reach: _Reach, operands: _Operands) -> Array:
    return _save(reach, operands)[0]


def _save(reach: _Reach, operands: _Operands) -> tuple[Array, tuple[_Operands, Array, Array]]:
    q = operands.q
    shapes = (q.shape, (q.shape[0], q.shape[2], q.shape[1], 2))  # peak, log2 of the sum beside it
    out, lse = _run("attend", reach, [jax.ShapeDtypeStruct(s, q.dtype) for s in shapes], operands)
    return out, (operands, out, lse)


def _gradient(
    reach: _Reach, saved: tuple[_Operands, Array, Array], grad: Array
) -> tuple[_Operands]:
    operands, out, lse = saved
    made = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands[:7]]
    grads = _run("attend_back", reach, made, (*operands, out, lse, grad))
    return (_Operands._make((*grads, *(None,) * 4)),)


_attend.defvjp(_save, _gradient)


def _run(name: str, reach: _Reach, made: list, operands: tuple[Array, ...]) -> Sequence[Array]:
    call = jax.ffi.ffi_call(f"bmojo_{name}_{made[0].dtype}", made, vmap_method="sequential")
    return call(*operands, **{key: np.int64(value) for key, value in reach._asdict().items()})
