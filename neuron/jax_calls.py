"""The kernels as differentiable functions of JAX arrays, in place of the library's own.

Each function takes and gives what its counterpart in ``bmojo.ops`` does, time before channels.
On Neuron devices it calls the kernel, which JAX lowers to a custom call; elsewhere it drives
``nki.simulate`` by ``jax.pure_callback``, which is the emulator where the package ``nki`` is
missing. **The device path follows AWS's documentation and has never run.** There it has to be
inside ``jax.jit``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.masks import Slots
from bmojo.ops.selection import EMPTY, Ranked
from bmojo.types import Array, Bool, Float, Int
from neuron.kernels import (
    attention,
    attention_backward,
    attention_step,
    convolution,
    eidetic,
    scan,
    scan_backward,
)
from neuron.kernels import innovation as innovation_kernels
from neuron.nki import nki, on_device

__all__ = [
    "innovation",
    "memory_attention",
    "memory_attention_step",
    "running_sets",
    "selective_scan",
    "short_convolution",
]

PLATFORM = "neuron"

Shape = jax.ShapeDtypeStruct
FLOAT32 = jnp.float32


def _call(kernel: Any, shapes: list[Shape], *arguments: Any, **options: Any) -> list[Array]:
    """A kernel's results.

    Args:
      kernel: to call.
      shapes: of its results.
      arguments: arrays, or values that are known when the call is traced.
      options: likewise, by name.
    """
    if jax.default_backend() == PLATFORM:
        found = on_device(kernel)(*arguments, **options)
        return list(found) if isinstance(found, tuple) else [found]
    leaves, tree = jax.tree.flatten((arguments, options))
    traced = [isinstance(x, jax.Array) for x in leaves]

    def simulate(*arrays: Any) -> tuple[np.ndarray, ...]:
        left, pairs = iter(arrays), zip(leaves, traced, strict=True)
        values = [np.asarray(next(left)) if is_array else x for x, is_array in pairs]
        positional, named = jax.tree.unflatten(tree, values)
        found = nki.simulate(kernel)(*positional, **named)
        return found if isinstance(found, tuple) else (found,)

    arrays = [x for x, is_array in zip(leaves, traced, strict=True) if is_array]
    return list(jax.pure_callback(simulate, tuple(shapes), *arrays, vmap_method="sequential"))


def short_convolution(
    x: Float[Array, "B L E"],
    kernel: Float[Array, "K E"],
    bias: Float[Array, "E"],
    tail: Float[Array, "B T E"],
    segment_pos: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L E"]:
    """Silu of :func:`bmojo.ops.convolution.causal_convolution` plus ``bias``."""
    if not tail.shape[1]:  # one tap: the kernel wants a tail, and reads nothing of it
        tail = jnp.zeros((x.shape[0], 1, x.shape[2]), x.dtype)
    return _convolution(x, tail.astype(x.dtype), kernel, bias, segment_pos)


@jax.custom_vjp
def _convolution(
    x: Array, tail: Array, kernel: Array, bias: Array, segment_pos: Array | None
) -> Array:
    return _convolution_forward(x, tail, kernel, bias, segment_pos)[0]


def _convolution_forward(
    x: Array, tail: Array, kernel: Array, bias: Array, segment_pos: Array | None
) -> tuple[Array, Any]:
    operands = _time_last(x), _time_last(tail), kernel.T, bias[:, None]
    out = _call(convolution.short_convolution, [_like(operands[0])], *operands, segment_pos)[0]
    return _time_first(out), (operands, segment_pos)


def _convolution_backward(saved: Any, grad: Array) -> tuple[Any, ...]:
    (x, tail, kernel, bias), segment_pos = saved
    shapes = [_like(x), _like(tail), _like(kernel, FLOAT32), _like(bias, FLOAT32)]
    dx, dtail, dkernel, dbias = _call(
        convolution.short_convolution_backward,
        shapes,
        x,
        tail,
        kernel,
        bias,
        _time_last(grad),
        segment_pos,
    )
    to_kernel, to_bias = dkernel.T.astype(kernel.dtype), dbias[:, 0].astype(bias.dtype)
    return _time_first(dx), _time_first(dtail), to_kernel, to_bias, None


_convolution.defvjp(_convolution_forward, _convolution_backward)


def selective_scan(
    x: Float[Array, "B L E"],
    dt: Float[Array, "B L E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B E N"],
    start: Bool[Array, "B L"] | None = None,
) -> tuple[Float[Array, "B L E"], Float[Array, "B E N"]]:
    """:func:`bmojo.ops.recurrence.selective_scan`."""
    starts = None if start is None else start.astype(FLOAT32)
    return _scan(x, dt, A, B, C, state, starts)


@jax.custom_vjp
def _scan(x, dt, A, B, C, state, start):
    return _scan_forward(x, dt, A, B, C, state, start)[0]


def _scan_forward(x, dt, A, B, C, state, start):
    operands = _time_last(x), _time_last(dt), A, _time_last(B), _time_last(C)
    (batch, length), (channels, states) = x.shape[:2], A.shape
    tiles = -(-length // scan.tile_columns(states))
    shapes = [
        _like(operands[0]),
        Shape((batch, channels, states), FLOAT32),
        Shape((batch, tiles, channels, states), FLOAT32),
    ]
    found = _call(scan.selective_scan, shapes, *operands, state, start, keep_edges=True)
    y, last, edges = found
    return (_time_first(y), last), (operands, edges, start)


def _scan_backward(saved, grads):
    operands, edges, start = saved
    x, dt, A, B, _ = operands
    batch, states, length = B.shape
    shapes = [
        _like(x),
        _like(dt),
        _like(A),
        Shape((2, batch, states, length), FLOAT32),
        Shape((batch, *A.shape), FLOAT32),
    ]
    dy, dlast = _time_last(grads[0]), grads[1]
    kernel = scan_backward.selective_scan_backward
    dx, ddt, da, maps, dstate = _call(kernel, shapes, *operands, edges, dy, dlast, start)
    db, dc = (jnp.moveaxis(m, 1, 2).astype(B.dtype) for m in maps)
    return _time_first(dx), _time_first(ddt), da, db, dc, dstate, None


_scan.defvjp(_scan_forward, _scan_backward)


def innovation(
    y: Float[Array, "B L D"],
    tail: Float[Array, "B T D"],
    span: int,
    segment_pos: Int[Array, "B L"] | None = None,
    power: Float[Array, "B D"] | None = None,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B L"], Float[Array, "B D"] | None]:
    """:func:`bmojo.ops.innovation.innovation` of the mean of the last ``span`` outputs' residual.

    Args:
      y: outputs of the fading memory.
      tail: at least ``span`` outputs before the call, in order of time.
      span: outputs that the predictor averages.
      segment_pos: tokens of the same document before each token; needed with ``power``.
      power: of the current document before the call, for normalized innovation; None: plain.
      lengths: valid tokens of each row, for ``power``; None: all.

    Returns:
      The innovation, and ``power`` after the last valid token, both without gradient.
    """
    y, tail, power = jax.lax.stop_gradient((y, tail, power))
    if power is not None:
        if segment_pos is None:
            raise ValueError("normalized innovation needs the segment_pos of every token")
        if lengths is not None:
            valid = jnp.arange(y.shape[1]) < lengths[:, None]
            y, segment_pos = jnp.where(valid[..., None], y, 0), jnp.where(valid, segment_pos, -1)
    shapes = [Shape(y.shape[:2], FLOAT32)]
    shapes += [] if power is None else [Shape(power.shape, FLOAT32)]
    weights = (1.0 / span,) * span
    operands = _time_last(y), _time_last(tail), weights, segment_pos, power
    found = _call(innovation_kernels.innovation, shapes, *operands)
    return found[0], None if power is None else found[1]


def running_sets(
    score: Float[Array, "B L"],
    carried: Float[Array, "B M"],
    chunk: int,
    start: Bool[Array, "B L"] | None = None,
    valid: Bool[Array, "B L"] | None = None,
) -> Ranked:
    """:func:`bmojo.ops.selection.running_sets` on a grid that starts with the call.

    Returns:
      The sets at the end of each chunk (B, C, M); the last is the set after the last token,
      wherever the call ends.
    """
    if valid is not None:
        score = jnp.where(valid, score, EMPTY)
    starts = None if start is None else start.astype(FLOAT32)
    score, carried = jax.lax.stop_gradient(score), jax.lax.stop_gradient(carried)
    shape = score.shape[0], -(-score.shape[1] // chunk), carried.shape[1]
    shapes = [Shape(shape, FLOAT32), Shape(shape, jnp.int32)]
    return Ranked(*_call(eidetic.running_sets, shapes, score, carried, chunk, starts))


def memory_attention(
    q: Float[Array, "B L H P"],
    k: Float[Array, "B L G P"],
    v: Float[Array, "B L G P"],
    tail_k: Float[Array, "B T G P"] | None,
    tail_v: Float[Array, "B T G P"] | None,
    segment_pos: Int[Array, "B L"] | None,
    *,
    window: int,
    slots: Slots | None = None,
) -> Float[Array, "B L H P"]:
    """:func:`bmojo.ops.attention_xla.memory_attention` on a grid that starts with the call.

    ``tail_k`` and ``tail_v`` may be None where no token was before the call, and ``segment_pos``
    where no document starts or ends in reach.
    """
    if tail_k is None or not tail_k.shape[1]:
        tail_k = tail_v = None
    if slots is not None and not slots.k.shape[2]:
        slots = None
    held: tuple[Any, ...] = (None, None, None)
    if slots is not None:
        held = slots.k, slots.v, slots.distance[:, :, 0]  # all heads have the same slots
    return _attention(window, segment_pos, held[2], (q, k, v, tail_k, tail_v, held[0], held[1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(window, segment_pos, distance, tensors):
    return _attention_forward(window, segment_pos, distance, tensors)[0]


def _attention_forward(window, segment_pos, distance, tensors):
    q, k, v, tail_k, tail_v, slot_k, slot_v = tensors
    tokens = _time_last(q), _time_last(k), v
    rest = {
        "segment_pos": segment_pos,
        "tail_k": None if tail_k is None else _time_last(tail_k),
        "tail_v": tail_v,
        "slot_k": None if slot_k is None else jnp.moveaxis(slot_k, 2, -1),
        "slot_v": slot_v,
        "distance": distance,
    }
    shapes = [_like(q, v.dtype), Shape(q.shape[:3], FLOAT32)]
    out, lse = _call(attention.memory_attention, shapes, *tokens, window, **rest)
    return out, (tokens, out, lse, rest)


def _attention_backward(window, saved, grad):
    tokens, out, lse, rest = saved
    q, k, v = tokens
    shapes = [_like(_time_first(q)), _like(v, k.dtype), _like(v)]
    for name in ("tail_v", "slot_v"):
        if rest[name] is not None:
            shapes += [_like(rest[name], k.dtype), _like(rest[name])]
    kernel = attention_backward.memory_attention_backward
    found = iter(_call(kernel, shapes, *tokens, out, lse, grad, window, **rest))
    given: list[Array | None] = [next(found), next(found), next(found)]
    for name in ("tail_v", "slot_v"):
        given += [None, None] if rest[name] is None else [next(found), next(found)]
    return None, None, tuple(given)


_attention.defvjp(_attention_forward, _attention_backward)


def memory_attention_step(
    q: Float[Array, "B H P"],
    k: Float[Array, "B G P"],
    v: Float[Array, "B G P"],
    ring_k: Float[Array, "B W G P"],
    ring_v: Float[Array, "B W G P"],
    position: Int[Array, "B"],
    segment_pos: Int[Array, "B"],
    slots: Slots | None = None,
) -> Float[Array, "B H P"]:
    """Attention of one new token of each row; it has no gradient.

    Args:
      q: query of the token.
      k: its key.
      v: its value.
      ring_k: keys of the window, that of position t in place t mod W; the token's own is not
        looked at.
      ring_v: their values.
      position: of the token.
      segment_pos: tokens of its document before it.
      slots: of the current chunk, (B, 1, M, G, P) and (B, 1, 1, M); None: none.
    """
    held: tuple[Any, ...] = (None, None, None)
    if slots is not None and slots.k.shape[2]:
        held = _time_last(slots.k[:, 0]), slots.v[:, 0], slots.distance[:, 0, 0]
    since = (position % ring_k.shape[1])[:, None].astype(jnp.int32)
    arguments = (
        q,
        k,
        v,
        _time_last(ring_k),
        ring_v,
        since,
        segment_pos[:, None].astype(jnp.int32),
        *held,
    )
    shapes = [_like(q, v.dtype)]
    return _call(attention_step.memory_attention_step, shapes, *arguments)[0]


def _time_last(x: Array) -> Array:
    """(B, L, ...) as (B, ..., L)."""
    return jnp.moveaxis(x, 1, -1)


def _time_first(x: Array) -> Array:
    """(B, ..., L) as (B, L, ...)."""
    return jnp.moveaxis(x, -1, 1)


def _like(x: Array, dtype: Any = None) -> Shape:
    return Shape(x.shape, dtype or x.dtype)
