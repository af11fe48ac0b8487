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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton

from bmojo.ops.masks import visible
from bmojo.ops.pallas.targets import Target, like, tiled_bytes
from bmojo.types import Array, at_least_float32

Ref = Any
Specs = list[pl.BlockSpec]
Index = tuple[Array | int, ...]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes and masks, known before anything is computed."""

    target: Target
    window: int  # W
    chunk: int  # rows that hold a chunk of W tokens, a multiple of ``block``
    block: int  # queries, and tokens, of a block
    chunks: int  # C, of the queries; the keys have one more in front
    filled: int  # blocks of queries from the first on; the rest of the last chunk is empty
    slots: int  # M filled up to a multiple of ``slot_block``; 0: none
    slot_block: int  # slots of a block
    near: int  # the nearest distance at which a slot is seen
    far: int | None  # the first distance that is too far for a slot; None: none is

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


class Operands(NamedTuple):
    """Arrays of a call, laid out for the kernels; None where there are no slots."""

    q: Array  # (B, H, C chunk, P), already divided by sqrt(P)
    k: Array  # (B, G, (C + 1) chunk, P), those before the call in front
    v: Array
    slot_k: Array | None  # (B, G, C M, P)
    slot_v: Array | None
    distance: Array | None  # of slots (B, C, M)
    segment_pos: Array  # of queries (B, C chunk), -1 for rows that are none


def forward(g: Geometry, of: Operands) -> tuple[Array, Array]:
    """Outputs (B, H, C chunk, P) in the dtype of ``v``, and (B, H, C chunk, 2) of their scores.

    The latter are the largest score and the logarithm of the sum beside it: as one number, their
    sum, the second would be lost beside a large first. Rows of empty blocks are not written.
    """
    q, v, segment_pos = of.q, of.v, of.segment_pos
    at = _Specs(g, q, of.k)
    operands, specs = _seen(g, at, of)
    wide = at_least_float32(q.dtype)
    inputs, outputs = [at.queries, at.segment_positions, *specs], [at.queries, at.pairs]
    made = [jax.ShapeDtypeStruct(q.shape, v.dtype), jax.ShapeDtypeStruct((*q.shape[:3], 2), wide)]
    run = _call(_forward, at, g.filled, inputs, outputs, made)
    return tuple(run(q, segment_pos[..., None], *operands))


def backward(
    g: Geometry, of: Operands, lse: Array, delta: Array, d_out: Array
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Gradients with respect to q, k, v and slots.

    ``lse`` must be finite in every row, ``delta`` (B, H, C chunk) is the output times its gradient,
    summed over channels, and ``d_out`` 0 in rows that are no queries.
    """
    q, k, v, slot_k, slot_v, distance, segment_pos = of
    at = _Specs(g, q, k)
    operands, specs = _seen(g, at, of)
    wide = at_least_float32(q.dtype)
    inputs = [at.queries, at.segment_positions, at.queries, at.pairs, at.columns, *specs]
    run = _call(_d_queries, at, g.filled, inputs, [at.queries], [like(q)])
    (dq,) = run(q, segment_pos[..., None], d_out, lse, delta[..., None], *operands)
    dq = dq.at[:, :, g.filled * g.block :].set(0)

    def rows(x: Array) -> Array:
        return x.reshape(*x.shape[:-1], g.chunks, g.blocks, 1, g.block)

    pairs = jnp.concatenate([rows(lse[..., 0]), rows(lse[..., 1])], axis=-2)
    of_queries = (q, d_out, pairs, rows(delta), rows(segment_pos))
    # One sum for each query head; those of a group are added up after.
    made = [jax.ShapeDtypeStruct((*q.shape[:2], k.shape[2], q.shape[3]), wide)] * 2
    inputs = [at.tokens, at.tokens, *at.chunk_of_queries(_own), *at.chunk_of_queries(_next)]
    run = _call(_d_tokens, at, (g.chunks + 1) * g.blocks, inputs, [at.queries] * 2, made)
    dk, dv = run(k, v, *of_queries, *of_queries)
    if slot_k is None or slot_v is None or distance is None:
        return dq, at.of_groups(dk, k), at.of_groups(dv, v), None, None

    made = [jax.ShapeDtypeStruct((*q.shape[:2], slot_k.shape[2], q.shape[3]), wide)] * 2
    inputs = [at.slots(1), at.slots(1), at.slot_column, *at.chunk_of_queries(lambda g, i: i)]
    run = _call(_d_slots, at, g.chunks, inputs, [at.d_slots] * 2, made)
    dsk, dsv = run(slot_k, slot_v, distance[..., None], *of_queries)
    sums = zip((dk, dv, dsk, dsv), (k, v, slot_k, slot_v), strict=True)
    return dq, *(at.of_groups(*pair) for pair in sums)


def _div(n: Array, by: int) -> Array:
    return jax.lax.div(n, np.int32(by))


def _rem(n: Array, by: int) -> Array:
    return jax.lax.rem(n, np.int32(by))


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
        self.queries = self.spec(self.head, g.block, self.width)
        self.columns = self.spec(self.head, g.block, 1)
        self.pairs = self.spec(self.head, g.block, 2)
        self.segment_positions = self.spec(self.row, g.block, 1)
        self.tokens = self.spec(self.kv_head, g.block, self.width)
        self.slot_column = self.spec(self.row, None, g.slots, 1)
        self.slot_row = self.spec(self.row, None, 1, g.slots, at=lambda i: _div(i, g.blocks))
        self.d_slots = self.spec(self.head, g.slots, self.width)

    def spec(
        self, owner: Callable[[Array], Index], *shape: int | None, at: Any = lambda i: i
    ) -> pl.BlockSpec:
        """The block ``at(number)`` of the arrays of a program's row or head."""

        def index(n: Array, i: Array) -> Index:
            return *owner(n), at(i), *(0,) * (len(shape) - 1)

        return pl.BlockSpec(((None,) if owner == self.row else (None, None)) + shape, index)

    def row(self, n: Array) -> Index:
        return (_div(n, self.heads),)

    def head(self, n: Array) -> Index:
        return *self.row(n), _rem(n, self.heads)

    def kv_head(self, n: Array) -> Index:
        return *self.row(n), _div(_rem(n, self.heads), self.group)

    def chunk_of_keys(self, ahead: int) -> pl.BlockSpec:
        """The chunk before a block of queries, or ``ahead`` chunks later."""
        chunk, blocks = self.g.chunk, self.g.blocks
        return self.spec(self.kv_head, chunk, self.width, at=lambda i: _div(i, blocks) + ahead)

    def slots(self, programs: int) -> pl.BlockSpec:
        """The slots of a chunk that so many programs share."""
        return self.spec(self.kv_head, self.g.slots, self.width, at=lambda i: _div(i, programs))

    def chunk_of_queries(self, which: Callable[[Geometry, Array], Array]) -> Specs:
        """Queries, output gradients, log-sum-exp, delta and segment_positions of a chunk."""
        g, at = self.g, functools.partial(which, self.g)
        many = self.spec(self.head, g.chunk, self.width, at=at)
        one, two = (self.spec(self.head, None, g.blocks, n, g.block, at=at) for n in (1, 2))
        return [many, many, two, one, self.spec(self.row, None, g.blocks, 1, g.block, at=at)]

    def of_groups(self, parts: Array, operand: Array) -> Array:
        """The sums of the query heads of each key-value head."""
        shape = (self.rows, self.heads // self.group, self.group, *parts.shape[2:])
        return parts.reshape(shape).sum(axis=2).astype(operand.dtype)


def _seen(g: Geometry, at: _Specs, of: Operands) -> tuple[list[Array], Specs]:
    """What a block of queries looks at."""
    _, k, v, slot_k, slot_v, distance, _ = of
    before, own = at.chunk_of_keys(0), at.chunk_of_keys(1)
    operands, specs = [k, v, k, v], [before, before, own, own]
    if slot_k is not None and slot_v is not None and distance is not None:
        operands += [slot_k, slot_v, distance[:, :, None]]
        specs += [at.slots(g.blocks), at.slots(g.blocks), at.slot_row]
    return operands, specs


def _call(kernel: Any, at: _Specs, number: int, inputs: Specs, outputs: Specs, made: list) -> Any:
    parameters: Any = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))
    if at.g.target.device == "gpu":
        parameters = triton.CompilerParams(num_warps=4, num_stages=2)
    return pl.pallas_call(
        functools.partial(kernel, at.g),
        grid=(at.rows * at.heads, number),
        in_specs=inputs,
        out_specs=outputs,
        out_shape=made,
        compiler_params=parameters,
        interpret=at.g.target.interpret,
        name=f"memory_attention{kernel.__name__}",
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
    lse_ref[:, :1], lse_ref[:, 1:] = peak, jnp.log(total)


def _d_queries(g: Geometry, *refs: Ref) -> None:
    q_ref, age_ref, d_out_ref, lse_ref, delta_ref, *seen_refs, dq_ref = refs
    q, d_out, delta = q_ref[...], d_out_ref[...], delta_ref[...]
    peak, log = lse_ref[:, :1], lse_ref[:, 1:]

    def step(k: Array, v: Array, seen: Array, dq: Array) -> Array:
        weights = jnp.where(seen, jnp.exp(_scores(q, k) - peak - log), 0)
        return dq + _product(weights * (_scores(d_out, v) - delta), k)

    nothing = jnp.zeros(q.shape, delta.dtype)
    dq_ref[...] = _over_keys(g, age_ref[...], seen_refs, step, nothing).astype(dq_ref.dtype)


def _gather(
    k: Array, v: Array, seen: Callable[[Array, Array], Array], refs: Sequence[Ref], block: int
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
        weights = jnp.exp(_scores(k, q) - lse_ref[a, :1] - lse_ref[a, 1:])
        weights = jnp.where(mask, weights, 0)
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
