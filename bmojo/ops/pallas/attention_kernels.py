"""The kernels of the memory attention, for TPUs and GPUs alike.

Time is cut into chunks of W tokens, and chunks into blocks. A block of queries looks at blocks
of its own chunk up to itself, at blocks of the chunk before from its own place on, and at the
slots of its chunk. Scores exist for one block of queries and one of keys at a time; the softmax
runs along with a maximum and a sum that are put right as larger scores come.

The backward pass has three kernels, each with its own owner of the sum: the gradient of queries
(as in the forward pass, over keys), that of tokens (over the queries of their chunk and the
next), and that of slots (over the queries of their chunk). The latter two hold scores with keys
as rows, so that no product needs a transposed left side; what there is one number of for each
query comes as a column in the former, as a row in the latter.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton

from bmojo.ops.masks import visible
from bmojo.ops.pallas.targets import Target, tiled_bytes
from bmojo.types import Array, at_least_float32

Ref = Any
Specs = list[pl.BlockSpec]
Index = tuple[Array | int, ...]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes and masks, known before anything is computed.

    Attributes:
      target: the device.
      window: W.
      chunk: rows that hold a chunk of W tokens, a multiple of ``block``.
      block: queries, and tokens, of a block.
      chunks: C, of the queries; the keys have one more in front.
      filled: blocks of queries from the first on; the rest of the last chunk is empty.
      slots: M with what fills it up to a multiple of ``slot_block``; 0: none.
      slot_block: slots of a block.
      near: the nearest distance at which a slot is seen.
      far: the first distance that is too far for a slot; None: none is.
    """

    target: Target
    window: int
    chunk: int
    block: int
    chunks: int
    filled: int
    slots: int
    slot_block: int
    near: int
    far: int | None

    @property
    def blocks(self) -> int:
        """Blocks of a chunk."""
        return self.chunk // self.block

    def vmem_bytes(self, width: int, itemsize: int) -> int:
        """Vector memory that a program takes on a TPU: blocks are there twice.

        The most is taken by the gradients of tokens (queries and output gradients of two
        chunks, and a block of keys, values and their gradients) or by those of slots (queries
        and output gradients of a chunk, and slots with their gradients).
        """
        chunk = tiled_bytes(self.chunk, width, itemsize=itemsize)
        rows = 3 * tiled_bytes(self.blocks, 1, self.block)
        tokens = 4 * chunk + 4 * tiled_bytes(self.block, width) + 2 * rows
        slots = 2 * chunk + rows + tiled_bytes(self.slots, 1)
        slots += 4 * tiled_bytes(self.slots, width)
        return 2 * max(tokens, slots if self.slots else 0)

    def tokens_seen(self, query: Array, key: Array, back: int, segment_pos: Array) -> Array:
        """Which tokens are seen, by their places in their chunks, ``back`` tokens apart."""
        return visible(query - key + back, segment_pos, self.window) & (key < self.window)

    def slots_seen(self, query: Array, distance: Array, segment_pos: Array) -> Array:
        """Which slots are seen, by the query's place in its chunk and the slot's distance."""
        return visible(query + distance, segment_pos, window=self.far, beyond=self.near)


def forward(
    g: Geometry,
    q: Array,
    k: Array,
    v: Array,
    slot_k: Array | None,
    slot_v: Array | None,
    distance: Array | None,
    segment_pos: Array,
) -> tuple[Array, Array]:
    """Outputs and log-sum-exp of scores; rows of empty blocks are not written.

    Args:
      g: the geometry.
      q: queries (B, H, C chunk, P), already divided by sqrt(P).
      k: keys (B, G, (C + 1) chunk, P), those before the call in front.
      v: their values.
      slot_k: keys of slots (B, G, C M, P); None: none.
      slot_v: their values.
      distance: of slots (B, C, M).
      segment_pos: of queries (B, C chunk), -1 for rows that are none.

    Returns:
      outputs (B, H, C chunk, P) in the dtype of ``v`` and log-sum-exp (B, H, C chunk).
    """
    at = _Specs(g, q, k)
    operands, specs = _seen(g, at, k, v, slot_k, slot_v, distance)
    wide = at_least_float32(q.dtype)
    out, lse = _call(
        functools.partial(_forward, g),
        g,
        at,
        g.filled,
        [at.queries, at.segment_positions, *specs],
        [at.queries, at.columns],
        [_shape(q, v.dtype), jax.ShapeDtypeStruct((*q.shape[:3], 1), wide)],
        "memory_attention",
    )(q, segment_pos[..., None], *operands)
    return out, lse[..., 0]


def backward(
    g: Geometry,
    q: Array,
    k: Array,
    v: Array,
    slot_k: Array | None,
    slot_v: Array | None,
    distance: Array | None,
    segment_pos: Array,
    lse: Array,
    delta: Array,
    d_out: Array,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Gradients with respect to q, k, v and slots.

    Args:
      g: the geometry.
      q: as in :func:`forward`, like the following.
      k: keys.
      v: values.
      slot_k: keys of slots.
      slot_v: values of slots.
      distance: of slots.
      segment_pos: of queries.
      lse: log-sum-exp of their scores, finite in every row.
      delta: output times its gradient, summed over channels (B, H, C chunk).
      d_out: gradient of the output, 0 in rows that are no queries.
    """
    at = _Specs(g, q, k)
    operands, specs = _seen(g, at, k, v, slot_k, slot_v, distance)
    wide = at_least_float32(q.dtype)
    (dq,) = _call(
        functools.partial(_d_queries, g),
        g,
        at,
        g.filled,
        [at.queries, at.segment_positions, at.queries, at.columns, at.columns, *specs],
        [at.queries],
        [_shape(q, q.dtype)],
        "memory_attention_dq",
    )(q, segment_pos[..., None], d_out, lse[..., None], delta[..., None], *operands)
    dq = dq.at[:, :, g.filled * g.block :].set(0)

    def rows(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], g.chunks, g.blocks, 1, g.block)

    of_queries = (q, d_out, rows(lse), rows(delta), rows(segment_pos))
    # One sum for each query head; those of a group are added up after.
    shape = (*q.shape[:2], k.shape[2], q.shape[3])
    dk, dv = _call(
        functools.partial(_d_tokens, g),
        g,
        at,
        (g.chunks + 1) * g.blocks,
        [at.tokens, at.tokens, *at.chunk_of_queries(_own), *at.chunk_of_queries(_next)],
        [at.d_tokens, at.d_tokens],
        [jax.ShapeDtypeStruct(shape, wide)] * 2,
        "memory_attention_dkv",
    )(k, v, *of_queries, *of_queries)
    if slot_k is None or slot_v is None or distance is None:
        return dq, at.of_groups(dk, k), at.of_groups(dv, v), None, None

    shape = (*q.shape[:2], slot_k.shape[2], q.shape[3])
    dsk, dsv = _call(
        functools.partial(_d_slots, g),
        g,
        at,
        g.chunks,
        [at.slots(1), at.slots(1), at.slot_column, *at.chunk_of_queries(lambda g, i: i)],
        [at.d_slots, at.d_slots],
        [jax.ShapeDtypeStruct(shape, wide)] * 2,
        "memory_attention_dslots",
    )(slot_k, slot_v, distance[..., None], *of_queries)
    return (
        dq,
        at.of_groups(dk, k),
        at.of_groups(dv, v),
        at.of_groups(dsk, slot_k),
        at.of_groups(dsv, slot_v),
    )


def _div(n: Array, by: int) -> Array:
    return jax.lax.div(n, np.int32(by))


def _rem(n: Array, by: int) -> Array:
    return jax.lax.rem(n, np.int32(by))


def _shape(x: Array, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, dtype)


def _own(g: Geometry, i: Array) -> Array:
    """The chunk of queries that a block of keys is in; the first where it is before all."""
    return jnp.maximum(_div(i, g.blocks) - 1, 0)


def _next(g: Geometry, i: Array) -> Array:
    """The chunk of queries after it; the last where there is none."""
    return jnp.minimum(_div(i, g.blocks), g.chunks - 1)


class _Specs:
    """Which block of each kind of array a program (row and query head, number) sees."""

    def __init__(self, g: Geometry, q: Array, k: Array):
        self.rows, self.heads, _, self.width = q.shape
        self.group = self.heads // k.shape[1]
        self.g = g
        block = (None, None, g.block, self.width)
        self.queries = pl.BlockSpec(block, lambda n, i: (*self.head(n), i, 0))
        self.columns = pl.BlockSpec((None, None, g.block, 1), lambda n, i: (*self.head(n), i, 0))
        self.segment_positions = pl.BlockSpec((None, g.block, 1), lambda n, i: (self.row(n), i, 0))
        self.tokens = pl.BlockSpec(block, lambda n, i: (*self.kv_head(n), i, 0))
        self.d_tokens = pl.BlockSpec(block, lambda n, i: (*self.head(n), i, 0))
        self.slot_column = pl.BlockSpec(
            (None, None, g.slots, 1), lambda n, i: (self.row(n), i, 0, 0)
        )
        self.d_slots = pl.BlockSpec(
            (None, None, g.slots, self.width), lambda n, i: (*self.head(n), i, 0)
        )

    def row(self, n: Array) -> Array:
        return _div(n, self.heads)

    def head(self, n: Array) -> tuple[Array, Array]:
        return self.row(n), _rem(n, self.heads)

    def kv_head(self, n: Array) -> tuple[Array, Array]:
        row, head = self.head(n)
        return row, _div(head, self.group)

    def chunk_of_keys(self, ahead: int) -> pl.BlockSpec:
        """The chunk before a block of queries, or ``ahead`` chunks later."""

        def index(n: Array, i: Array) -> Index:
            return *self.kv_head(n), _div(i, self.g.blocks) + ahead, 0

        return pl.BlockSpec((None, None, self.g.chunk, self.width), index)

    def slots(self, programs: int) -> pl.BlockSpec:
        """The slots of a chunk that so many programs share."""

        def index(n: Array, i: Array) -> Index:
            return *self.kv_head(n), _div(i, programs), 0

        return pl.BlockSpec((None, None, self.g.slots, self.width), index)

    def slot_row(self) -> pl.BlockSpec:
        def index(n: Array, i: Array) -> Index:
            return self.row(n), _div(i, self.g.blocks), 0, 0

        return pl.BlockSpec((None, None, 1, self.g.slots), index)

    def chunk_of_queries(self, which: Callable[[Geometry, Array], Array]) -> Specs:
        """Queries, output gradients, log-sum-exp, delta and segment_positions of a chunk."""
        g = self.g

        def number(n: Array, i: Array) -> Index:
            return *self.head(n), which(g, i), 0, 0, 0

        def of_row(n: Array, i: Array) -> Index:
            return self.row(n), which(g, i), 0, 0, 0

        many = pl.BlockSpec(
            (None, None, g.chunk, self.width), lambda n, i: (*self.head(n), which(g, i), 0)
        )
        one = pl.BlockSpec((None, None, None, g.blocks, 1, g.block), number)
        return [many, many, one, one, pl.BlockSpec((None, None, g.blocks, 1, g.block), of_row)]

    def of_groups(self, parts: Array, like: Array) -> Array:
        """The sums of the query heads of each key-value head."""
        shape = (self.rows, self.heads // self.group, self.group, *parts.shape[2:])
        return parts.reshape(shape).sum(axis=2).astype(like.dtype)


def _seen(
    g: Geometry,
    at: _Specs,
    k: Array,
    v: Array,
    slot_k: Array | None,
    slot_v: Array | None,
    distance: Array | None,
) -> tuple[list[Array], Specs]:
    """What a block of queries looks at."""
    before, own = at.chunk_of_keys(0), at.chunk_of_keys(1)
    operands, specs = [k, v, k, v], [before, before, own, own]
    if slot_k is not None and slot_v is not None and distance is not None:
        operands += [slot_k, slot_v, distance[:, :, None]]
        specs += [at.slots(g.blocks), at.slots(g.blocks), at.slot_row()]
    return operands, specs


def _call(
    kernel: Callable[..., None],
    g: Geometry,
    at: _Specs,
    number: int,
    in_specs: Specs,
    out_specs: Specs,
    out_shape: Sequence[jax.ShapeDtypeStruct],
    name: str,
) -> Callable[..., list[Array]]:
    parameters: Any = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))
    if g.target.device == "gpu":
        parameters = triton.CompilerParams(num_warps=4, num_stages=2)
    return pl.pallas_call(
        kernel,
        grid=(at.rows * at.heads, number),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=parameters,
        interpret=g.target.interpret,
        name=name,
    )


def _places(first: Array | int, size: int, axis: int) -> Array:
    """``first``, ``first`` + 1, ... along an axis of two."""
    shape = (size, 1) if axis == 0 else (1, size)
    return first + jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _scores(a: Array, b: Array) -> Array:
    """The product of a and b^T."""
    wide = at_least_float32(a.dtype)
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=wide)


def _product(a: Array, b: Array) -> Array:
    """The product of a, rounded to the dtype of b, and b."""
    wide = at_least_float32(b.dtype)
    return jax.lax.dot_general(
        a.astype(b.dtype), b, (((1,), (0,)), ((), ())), preferred_element_type=wide
    )


Step = Callable[[Array, Array, Array, Any], Any]


def _over_keys(g: Geometry, segment_pos: Array, refs: Sequence[Ref], step: Step, carry: Any) -> Any:
    """``step(k, v, seen, carry)`` for every block that a block of queries looks at."""
    k_before, v_before, k_own, v_own, *slots = refs
    at = _rem(pl.program_id(1), g.blocks)
    query = _places(at * g.block, g.block, 0)

    def tokens(k_ref: Ref, v_ref: Ref, back: int) -> Callable[[Array, Any], Any]:
        def one(j: Array, carry: Any) -> Any:
            first = pl.multiple_of(j * g.block, g.block)
            held = pl.ds(first, g.block)
            seen = g.tokens_seen(query, _places(first, g.block, 1), back, segment_pos)
            return step(k_ref[held, :], v_ref[held, :], seen, carry)

        return one

    carry = jax.lax.fori_loop(at, g.blocks, tokens(k_before, v_before, g.window), carry)
    carry = jax.lax.fori_loop(0, at + 1, tokens(k_own, v_own, 0), carry)
    if slots:
        k_ref, v_ref, distance_ref = slots
        for first in range(0, g.slots, g.slot_block):
            held = pl.ds(first, g.slot_block)
            seen = g.slots_seen(query, distance_ref[:, held], segment_pos)
            carry = step(k_ref[held, :], v_ref[held, :], seen, carry)
    return carry


def _forward(g: Geometry, *refs: Ref) -> None:
    q_ref, age_ref, *seen_refs, out_ref, lse_ref = refs
    q = q_ref[...]
    wide = lse_ref.dtype
    least = 0.7 * float(jnp.finfo(wide).min)

    def step(k: Array, v: Array, seen: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        peak, total, mixed = carry
        scores = jnp.where(seen, _scores(q, k), least)
        higher = jnp.maximum(peak, jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - higher), 0)
        shrink = jnp.exp(peak - higher)
        total = shrink * total + jnp.sum(weights, axis=1, keepdims=True)
        return higher, total, shrink * mixed + _product(weights, v)

    nothing = jnp.zeros((g.block, 1), wide)
    carry = (nothing + least, nothing, jnp.zeros(q.shape, wide))
    peak, total, mixed = _over_keys(g, age_ref[...], seen_refs, step, carry)
    # Rows that are no queries have seen nothing.
    total = jnp.where(total > 0, total, 1)
    out_ref[...] = (mixed / total).astype(out_ref.dtype)
    lse_ref[...] = peak + jnp.log(total)


def _d_queries(g: Geometry, *refs: Ref) -> None:
    q_ref, age_ref, d_out_ref, lse_ref, delta_ref, *seen_refs, dq_ref = refs
    q, d_out, lse, delta = q_ref[...], d_out_ref[...], lse_ref[...], delta_ref[...]

    def step(k: Array, v: Array, seen: Array, dq: Array) -> Array:
        weights = jnp.where(seen, jnp.exp(_scores(q, k) - lse), 0)
        return dq + _product(weights * (_scores(d_out, v) - delta), k)

    nothing = jnp.zeros(q.shape, lse.dtype)
    dq_ref[...] = _over_keys(g, age_ref[...], seen_refs, step, nothing).astype(dq_ref.dtype)


def _gather(
    k: Array,
    v: Array,
    seen: Callable[[Array, Array], Array],
    refs: Sequence[Ref],
    block: int,
) -> Callable[[Array, tuple[Array, Array]], tuple[Array, Array]]:
    """The step that adds to the gradients of keys and values what a block of queries gives.

    ``seen`` is a function of the queries' offsets in their chunk and of ``segment_pos``, both
    (1, queries).
    """
    q_ref, d_out_ref, lse_ref, delta_ref, age_ref = refs

    def one(a: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        first = pl.multiple_of(a * block, block)
        q, d_out = q_ref[pl.ds(first, block), :], d_out_ref[pl.ds(first, block), :]
        mask = seen(_places(first, block, 1), age_ref[a])
        weights = jnp.where(mask, jnp.exp(_scores(k, q) - lse_ref[a]), 0)
        d_scores = weights * (_scores(v, d_out) - delta_ref[a])
        return dk + _product(d_scores, q), dv + _product(weights, d_out)

    return one


def _d_tokens(g: Geometry, *refs: Ref) -> None:
    k_ref, v_ref, *of_queries, dk_ref, dv_ref = refs
    own, after = of_queries[:5], of_queries[5:]
    number = pl.program_id(1)
    chunk, at = _div(number, g.blocks), _rem(number, g.blocks)
    key = _places(at * g.block, g.block, 0)
    k, v = k_ref[...], v_ref[...]

    def seen(back: int) -> Callable[[Array, Array], Array]:
        return lambda query, segment_pos: g.tokens_seen(query, key, back, segment_pos)

    nothing = jnp.zeros(k.shape, dk_ref.dtype)
    # Chunk 0 is before the queries; after the last there are none.
    end = jnp.where(chunk > 0, g.blocks, at)
    carry = jax.lax.fori_loop(at, end, _gather(k, v, seen(0), own, g.block), (nothing, nothing))
    end = jnp.where(chunk < g.chunks, at + 1, 0)
    dk_ref[...], dv_ref[...] = jax.lax.fori_loop(
        0, end, _gather(k, v, seen(g.window), after, g.block), carry
    )


def _d_slots(g: Geometry, *refs: Ref) -> None:
    k_ref, v_ref, distance_ref, *of_queries, dk_ref, dv_ref = refs
    for first in range(0, g.slots, g.slot_block):
        held = pl.ds(first, g.slot_block)
        k, v, distance = k_ref[held, :], v_ref[held, :], distance_ref[held, :]

        def seen(query: Array, segment_pos: Array, distance: Array = distance) -> Array:
            return g.slots_seen(query, distance, segment_pos)

        nothing = jnp.zeros(k.shape, dk_ref.dtype)
        dk_ref[held, :], dv_ref[held, :] = jax.lax.fori_loop(
            0, g.blocks, _gather(k, v, seen, of_queries, g.block), (nothing, nothing)
        )
