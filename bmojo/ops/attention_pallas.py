"""Memory attention by Pallas kernels for TPUs and GPUs: layout, blocks, derivative."""

import functools

import jax
import jax.numpy as jnp

from bmojo.ops.attention_xla import marked
from bmojo.ops.masks import NEVER, finite, settled
from bmojo.ops.pallas import attention_kernels as kernels
from bmojo.ops.pallas.attention_kernels import Geometry, Operands
from bmojo.ops.pallas.targets import LANES, VMEM, Target, here, pad, power_of_2, round_up
from bmojo.types import Array, DType, Float

LEAST = 16
"""Rows of a block at the least: a tile of bfloat16 on a TPU, a matrix unit's on a GPU."""


def geometry(
    target: Target, length: int, window: int, num_slots: int, slot_range=(0, None), block=None
) -> Geometry:
    """How so many tokens are cut.

    A block has 128 tokens on a TPU and 64 on a GPU, or a whole chunk where the window is no
    longer than that; chunks are filled up to whole blocks, of at least 16 rows and, on a GPU,
    of a power of two. Blocks of slots have 128 on a TPU, at most 64 on a GPU.
    ``block`` is the tokens of a block in place of that.
    """
    size = (LANES if target.device == "tpu" else 64) if block is None else block
    if window < size:
        size = round_up(window, LEAST) if target.device == "tpu" else power_of_2(window)
        size = max(LEAST, size)
    slot_block = LANES if target.device == "tpu" else min(64, max(LEAST, power_of_2(num_slots)))
    chunks = -(-length // window)
    chunk = round_up(window, size)
    last = length - (chunks - 1) * window
    filled = (chunks - 1) * (chunk // size) + -(-last // size)
    slots = round_up(num_slots, slot_block) if num_slots else 0
    return Geometry(target, window, chunk, size, chunks, filled, slots, slot_block, *slot_range)


def unfit(
    length: int, window: int, num_slots: int, width: int, dtype: DType, target=None, block=None
) -> str | None:
    """Why the kernels cannot run with heads of this width and so on; None: they can."""
    target = here() if target is None else target
    if not target.interpret and jnp.dtype(dtype) == jnp.float64:
        return "the kernels compute in float32, not in float64"
    if target.device == "gpu":
        if width > 256:
            return f"heads of width {width} exceed the 256 that the GPU's kernels hold"
        return None
    g = geometry(target, length, window, num_slots, block=block)
    taken = g.vmem_bytes(round_up(width, LANES), jnp.dtype(dtype).itemsize)
    if taken <= VMEM:
        return None
    return (
        f"window {window} with {num_slots} slots and heads of width {width} takes "
        f"{taken / 2**20:.0f} MiB of a TPU's vector memory, more than {VMEM / 2**20:.0f}"
    )


def memory_attention(
    q, k, v, tail_k, tail_v, segment_pos, *, window, slots=None, slot_range=(0, None), offset=None,
    target: Target | None = None, block: int | None = None,
) -> Float[Array, "B L H P"]:  # fmt: skip
    """:func:`bmojo.ops.memory_attention.memory_attention` by the kernels.

    Chunks lie on the grid of the slots: with ``offset`` the tokens of each row are moved onto
    it, with up to W - 1 empty places in front, and the outputs back. Scores are float32 or
    wider and exist for one pair of blocks at a time. Products are as precise as
    ``jax.default_matmul_precision`` says. Saved for the backward pass are the operands, the
    output and two numbers for each query and head. All heads share their slots.

    ``target`` is the device (None: JAX's default one), ``block`` the tokens of a block (None: see
    :func:`geometry`).

    Raises:
      ValueError: the sizes fit no block, or the operands are float64 on a device.
    """
    target = here() if target is None else target
    length, width = q.shape[1], q.shape[3]
    if slots is not None and not slots.k.shape[2]:
        slots = None
    (k, v), (tail_k, tail_v) = marked(k, v), marked(tail_k, tail_v)
    held = () if slots is None else marked(slots.k, slots.v)
    common = jnp.result_type(q, k, v, tail_k, tail_v, *held)
    out_dtype = jnp.result_type(v, tail_v, *held[1:])
    offset = None if slots is None else offset
    num_slots = 0 if slots is None else slots.k.shape[2]
    taken = length if offset is None else length + window - 1
    g = geometry(target, taken, window, num_slots, slot_range, block)
    why = unfit(taken, window, num_slots, width, common, target, block)
    if why is not None:
        raise ValueError(f"implementation: {why}; take 'xla'")
    padded = power_of_2(max(width, LEAST)) if target.device == "gpu" else width

    def on_grid(x: Array, value: int = 0, before: Array | None = None) -> Array:
        """(B, L, ...) to (B, chunks, chunk, ...), with a chunk that ends in ``before``."""
        x = pad(x, 1, g.chunks * window, value)
        if before is not None:
            first = pad(before[:, ::-1], 1, window)[:, ::-1]
            x = jnp.concatenate([first, x], axis=1)
        x = x if offset is None else _rolled(x, offset)
        return pad(x.reshape(x.shape[0], -1, window, *x.shape[2:]), 2, g.chunk, value)

    def heads_first(x: Array) -> Array:
        """(B, chunks, rows, heads, P) to (B, heads, chunks rows, P)."""
        x = pad(jnp.moveaxis(x.astype(common), 3, 1), 4, padded)
        return x.reshape(*x.shape[:2], -1, padded)

    slot_k = slot_v = distance = None
    if slots is not None:
        slot_k, slot_v = (heads_first(pad(x[:, : g.chunks], 2, g.slots)) for x in held)
        distance = pad(slots.distance[:, : g.chunks, 0], 2, g.slots, NEVER)
    segment_positions = on_grid(segment_pos, -1).reshape(segment_pos.shape[0], -1)
    queries, keys = heads_first(on_grid(q * width**-0.5)), heads_first(on_grid(k, before=tail_k))
    values = heads_first(on_grid(v, before=tail_v))
    operands = Operands(queries, keys, values, slot_k, slot_v, distance, segment_positions)
    out = _attend(g, operands)
    out = out.reshape(*out.shape[:2], g.chunks, g.chunk, padded)[:, :, :, :window, :width]
    out = jnp.moveaxis(out.reshape(*out.shape[:2], g.chunks * window, width), 1, 2)
    out = out if offset is None else _rolled(out, -offset)
    return out[:, :length].astype(out_dtype)


@jax.custom_vjp
def _rolled(x: Array, by: Array) -> Array:
    """Each row of (B, L, ...) moved ``by`` so many places in time, and round."""
    index = (jnp.arange(x.shape[1], dtype=jnp.int32) - by[:, None]) % x.shape[1]
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)


# Written down because JAX would make a scatter of the gather's derivative.
_rolled.defvjp(lambda x, by: (_rolled(x, by), by), lambda by, dx: (_rolled(dx, -by), None))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(g: Geometry, operands: Operands) -> Array:
    return _save(g, operands)[0]


def _written(g: Geometry, *arrays: Array) -> tuple[Array, ...]:
    """The arrays with zeros in the rows that the kernel leaves out."""
    rows = g.filled * g.block
    return tuple(pad(x[:, :, :rows], 2, x.shape[2]) for x in arrays)


def _save(g, operands):
    out, lse = _written(g, *kernels.forward(g, operands))
    return out, (operands, lse, out)


def _backward(g, saved, d_out):
    operands, lse, out = saved
    delta = jnp.sum(d_out.astype(lse.dtype) * out.astype(lse.dtype), axis=-1)
    q, k, _, slot_k, *_ = operands
    lse, d_out, delta, q, k = settled(lse, d_out, delta, q, k)
    operands = operands._replace(q=q, k=k, slot_k=slot_k if slot_k is None else finite(slot_k))
    grads = kernels.backward(g, operands, lse, delta, d_out)
    return (Operands._make((*grads, None, None)),)


_attend.defvjp(_save, _backward)
