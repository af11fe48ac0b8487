"""Attention over a window and memory slots, or over the whole past, one block at a time.

Scores exist for one block of queries and the keys that it may see, never for all of them: what
the backward pass keeps is the output and two numbers for each query and head, and it computes
the weights again (as FlashAttention does, arXiv 2205.14135). Inside, heads come before time,
and the query heads of a key-value head are rows of one matrix.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmojo.ops.masks import Slots, finite, memory_keys, settled, visible
from bmojo.types import Array, Bool, Float, at_least_float32

QUERIES = 128
"""Queries of a block on a CPU, at most."""

KEYS = 256
"""Keys of a block of the whole past on a CPU, at most."""

SCORES = 2**19
"""Scores of a block on a CPU, at most if its queries then are not fewer than ``FEW``."""

FEW = 16

LARGE = 8
"""How many times more queries, and keys, a block may have on other processors."""


def attend(
    q: Float[Array, "*rest L H P"],
    k: Float[Array, "*rest K G P"],
    v: Float[Array, "*rest K G P"],
    mask: Bool[Array, "*rest S L K"],
) -> Float[Array, "*rest L H P"]:
    """softmax(q k^T / sqrt(P)) v under one softmax, H / G query heads to a key-value head.

    Scores and softmax are float32 or wider, the output has the dtype of ``v``. The mask is that
    of all heads (S = 1) or of each key-value head (S = G). Every query must see at least one
    key; its own token's always qualifies.
    """
    *rest, length, heads, width = q.shape
    weights = softmax_weights(q, k, mask)
    mixed = jnp.einsum(
        "...ghls,...sgp->...lghp", weights.astype(v.dtype), v, preferred_element_type=weights.dtype
    )
    inverse = jnp.moveaxis(1 / weights.sum(axis=-1), -1, -3)
    return (mixed * inverse[..., None]).astype(v.dtype).reshape(*rest, length, heads, width)


def marked(k: Float[Array, "..."], v: Float[Array, "..."]) -> tuple[Array, Array]:
    """Keys and values so that what is not finite reaches those queries alone that see it.

    A masked key has weight zero, which times a value that is not finite is not zero. Such a value
    is replaced by zeros and its key by NaN: the score is masked, the value is not.
    """
    good = jnp.isfinite(v).all(axis=-1, keepdims=True)
    return jnp.where(good, k, jnp.nan), jnp.where(jnp.isfinite(v), v, 0)


def _attend_one(q, k, v, mask):
    """:func:`attend` of one token, which would take longer to mark its keys than to read them."""
    out = attend(q, k, v, mask)
    fine = jnp.isfinite(out).all()
    return jax.lax.cond(fine, lambda: out, lambda: attend(q, *marked(k, v), mask))


def softmax_weights(
    q: Float[Array, "*rest L H P"], k: Float[Array, "*rest K G P"], mask: Bool[Array, "*rest S L K"]
) -> Float[Array, "*rest G heads L K"]:
    """exp(q k^T / sqrt(P)) up to a factor for each query, 0 where the mask is false."""
    *rest, length, heads, width = q.shape
    groups = k.shape[-2]
    grouped = (q * width**-0.5).reshape(*rest, length, groups, heads // groups, width)
    dtype = at_least_float32(q.dtype)
    scores = jnp.einsum("...lghp,...sgp->...ghls", grouped, k, preferred_element_type=dtype)
    scores = jnp.where(mask[..., :, None, :, :], scores, jnp.finfo(dtype).min)
    peak = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    return jnp.exp(scores - peak)


def memory_attention(
    q, k, v, tail_k, tail_v, segment_pos, *, window, slots=None, slot_range=(0, None), offset=None
) -> Float[Array, "B L H P"]:
    """:func:`bmojo.ops.memory_attention.memory_attention` by XLA.

    A block of b queries reads W + b keys and the slots of its chunk, or of two chunks where b
    does not divide W or the call does not begin on the grid.
    """
    (batch, length, heads, width), groups = q.shape, k.shape[2]
    if length == 1:
        options = {"window": window, "slots": slots, "slot_range": slot_range, "offset": offset}
        seen = memory_keys(k, v, tail_k, tail_v, segment_pos, **options)
        return _attend_one(q[:, None], seen.k, seen.v, seen.mask)[:, 0]
    if slots is not None and not slots.k.shape[2]:
        slots = None
    (k, v), (tail_k, tail_v) = marked(k, v), marked(tail_k, tail_v)
    held = 0 if slots is None else slots.k.shape[2]
    block = _block(batch * heads, window + held, length, window)
    padding = -length % block

    k_all, v_all = (
        jnp.swapaxes(_pad(jnp.concatenate([tail.astype(x.dtype), x], axis=1), 1, padding), 1, 2)
        for tail, x in ((tail_k, k), (tail_v, v))
    )
    if slots is not None:
        k_slots, v_slots = (jnp.swapaxes(x, 2, 3) for x in marked(slots.k, slots.v))
        slots = Slots(k_slots, v_slots, slots.distance)
    pair = offset is not None or window % block > 0
    plan = _Plan(window, block, slot_range[0], slot_range[1], pair)
    queries = _heads_first(_pad(q * width**-0.5, 0, padding), groups, block)
    segment_positions = _pad(segment_pos, 0, padding).reshape(batch, -1, block).swapaxes(0, 1)
    out = _windowed(plan, queries, k_all, v_all, slots, segment_positions, offset)
    return _tokens_first(out, heads)[:, :length]


def causal_attention(q, k, v, segment_pos, position=None) -> Float[Array, "B L H P"]:
    """:func:`bmojo.ops.memory_attention.causal_attention` by XLA.

    Blocks of keys that lie after a block's queries, or before the documents of all of them, are
    skipped.
    """
    (batch, length, heads, width), (many, groups) = q.shape, k.shape[1:3]
    if position is None:
        position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segment_pos.shape)
    if length == 1:
        distance = position[..., None] - jnp.arange(many, dtype=jnp.int32)
        return _attend_one(q, k, v, visible(distance, segment_pos[..., None])[:, None])
    k, v = marked(k, v)
    large = 1 if jax.default_backend() == "cpu" else LARGE
    size = min(KEYS * large, many)
    block = _block(batch * heads, size, length)
    padding = -length % block

    def cut(x: Array) -> Array:
        x = jnp.pad(x.astype(jnp.int32), [(0, 0), (0, padding)], mode="edge")
        return x.reshape(batch, -1, block).swapaxes(0, 1)

    k, v = (jnp.swapaxes(_pad(x, 0, -many % size), 1, 2) for x in (k, v))
    queries = _heads_first(_pad(q * width**-0.5, 0, padding), groups, block)
    out = _causal(size, queries, k, v, cut(segment_pos), cut(position))
    return _tokens_first(out, heads)[:, :length]


def _block(heads: int, keys: int, length: int, window: int | None = None) -> int:
    """Queries of a block: a divisor of the window, if there is a good one.

    ``heads`` are those of all rows together, ``keys`` those that a query may see.
    """
    large = 1 if jax.default_backend() == "cpu" else LARGE
    limit = min(QUERIES * large, max(FEW, SCORES * large**2 // (heads * keys)))
    most = min(limit, length if window is None else min(length, window))
    if window is None:
        return most
    divisor = next(size for size in range(most, 0, -1) if window % size == 0)
    return divisor if 2 * divisor > most else most


# ---- A window and slots --------------------------------------------------------------------


class _Plan(NamedTuple):
    """Sizes of a call."""

    window: int
    block: int  # queries
    near: int  # distances at which slots are seen: near .. far - 1
    far: int | None
    pair: bool  # a block of queries may touch two chunks


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _windowed(plan, q, k, v, slots, segment_pos, offset):
    """Output of every block of scaled queries (n, B, G, H / G b, P), segment_pos (n, B, b).

    Keys and values are (B, G, T, P), those of slots (B, C, G, M, P).
    """
    return _windowed_save(plan, q, k, v, slots, segment_pos, offset)[0]


def _windowed_save(plan, q, k, v, slots, segment_pos, offset):
    def block(now):
        index, q, segment_pos = now
        k_seen, v_seen, mask = _seen(plan, k, v, slots, segment_pos, offset, index)
        scores = _scores(q, k_seen, mask)
        peak = scores.max(axis=-1)
        weights = jnp.exp(scores - peak[..., None])
        total = weights.sum(axis=-1)
        mix = functools.partial(jnp.einsum, preferred_element_type=weights.dtype)
        out = mix("bgqk,bgkp->bgqp", weights.astype(v.dtype), v_seen) / total[..., None]
        return out.astype(v.dtype), jnp.stack([peak, jnp.log(total)], axis=-1)

    out, lse = jax.lax.map(block, (jnp.arange(len(q)), q, segment_pos))
    return out, (q, k, v, slots, segment_pos, offset, out, lse)


def _windowed_gradient(plan, saved, grad):
    q, k, v, slots, segment_pos, offset, out, lse = saved
    lse, grad, share, q, k = settled(lse, grad, _share(out, grad), q, k)
    slots = slots if slots is None else slots._replace(k=finite(slots.k))
    edge = plan.window + plan.block

    def block(sums, now):
        index, q, segment_pos, grad, lse, share = now
        k_seen, v_seen, mask = _seen(plan, k, v, slots, segment_pos, offset, index)
        dq, dk, dv = _gradients(q, k_seen, v_seen, mask, grad, lse, share)
        dk_all, dv_all, *held = sums
        dk_all = _add(dk_all, dk[:, :, :edge], index * plan.block, 2)
        dv_all = _add(dv_all, dv[:, :, :edge], index * plan.block, 2)
        if slots is not None:
            many = slots.k.shape[3]
            for place, chunk in enumerate(_chunks(plan, offset, index)):
                part = slice(edge + place * many, edge + (place + 1) * many)
                held[0] = _add_to_chunk(held[0], dk[:, :, part], chunk)
                held[1] = _add_to_chunk(held[1], dv[:, :, part], chunk)
        return (dk_all, dv_all, *held), dq.astype(q.dtype)

    summed = [k, v] if slots is None else [k, v, slots.k, slots.v]
    zeros = tuple(jnp.zeros(x.shape, lse.dtype) for x in summed)
    sums, dq = jax.lax.scan(block, zeros, (jnp.arange(len(q)), q, segment_pos, grad, lse, share))
    dk, dv, *held = (x.astype(like.dtype) for x, like in zip(sums, summed, strict=True))
    d_slots = None if slots is None else slots._replace(k=held[0], v=held[1], distance=None)
    return dq, dk, dv, d_slots, None, None


_windowed.defvjp(_windowed_save, _windowed_gradient)


def _seen(plan, k, v, slots, segment_pos, offset, index):
    """Keys and values (B, G, K, P) and mask (B, S, b, K) of one block of queries."""
    query = jnp.arange(plan.block, dtype=jnp.int32)
    keys, values = (
        jax.lax.dynamic_slice_in_dim(x, index * plan.block, plan.window + plan.block, 2)
        for x in (k, v)
    )
    back = plan.window + query[:, None] - jnp.arange(plan.window + plan.block, dtype=jnp.int32)
    own_pos = segment_pos[:, None, :, None]
    mask = visible(back, own_pos, plan.window)
    if slots is None:
        return keys, values, mask
    shared = slots.distance.shape[2]
    masks = [jnp.broadcast_to(mask, (mask.shape[0], shared, *mask.shape[2:]))]
    parts = [(keys, values)]
    since = index * plan.block + query + (0 if offset is None else offset[:, None])
    for chunk in _chunks(plan, offset, index):
        # Beyond the last chunk that one: its slots are masked.
        if chunk.ndim == 0:
            held = Slots(*(jax.lax.dynamic_index_in_dim(x, chunk, 1, False) for x in slots))
        else:
            pick = jax.vmap(lambda row, c: jax.lax.dynamic_index_in_dim(row, c, 0, False))
            held = Slots(*(pick(x, chunk) for x in slots))
        number = chunk if offset is None else chunk[:, None]
        into = jnp.atleast_2d(since - number * plan.window)[:, None, :, None]
        reach = into + held.distance[:, :, None]
        seen = visible(reach, own_pos, window=plan.far, beyond=plan.near)
        if plan.pair:
            seen &= jnp.atleast_2d(since // plan.window == number)[:, None, :, None]
        parts.append((held.k, held.v))
        masks.append(seen)
    keys, values = (jnp.concatenate(x, axis=2) for x in zip(*parts, strict=True))
    return keys, values, jnp.concatenate(masks, axis=3)


def _chunks(plan, offset, index):
    """Numbers of the chunks that a block of queries touches: for all rows, or (B,)."""
    first = (index * plan.block + (0 if offset is None else offset)) // plan.window
    return [first, first + 1] if plan.pair else [first]


def _add_to_chunk(x, update, chunk):
    """``x`` (B, C, ...) with one chunk increased. Beyond the last one nothing is to be added."""
    if chunk.ndim == 0:
        return _add(x, update[:, None], chunk, 1)
    return x.at[jnp.arange(len(x)), chunk].add(update.astype(x.dtype), mode="drop")


# ---- The whole past ------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _causal(size, q, k, v, segment_pos, position):
    """Output of every block of scaled queries as above, over blocks of ``size`` keys."""
    return _causal_save(size, q, k, v, segment_pos, position)[0]


def _causal_save(size, q, k, v, segment_pos, position):
    number = at_least_float32(q.dtype)

    def block(now):
        q, segment_pos, position = now
        first, last = _reach(size, k, segment_pos, position)

        def look(index, sums):
            out, peak, total = sums
            k_seen, v_seen, mask = _stretch(size, k, v, segment_pos, position, index)
            scores = _scores(q, k_seen, mask)
            higher = jnp.maximum(peak, scores.max(axis=-1))
            weights = jnp.exp(scores - higher[..., None])
            # Where nothing was seen so far, the weights mean nothing: a later block, with the
            # query's own key in it, scales them to zero.
            kept = jnp.exp(peak - higher)
            total = total * kept + weights.sum(axis=-1)
            mix = functools.partial(jnp.einsum, preferred_element_type=weights.dtype)
            out = out * kept[..., None] + mix("bgqk,bgkp->bgqp", weights.astype(v.dtype), v_seen)
            return out, higher, total

        nothing = jnp.zeros(q.shape[:-1], number)
        start = (jnp.zeros(q.shape, number), nothing + jnp.finfo(number).min, nothing)
        out, peak, total = jax.lax.fori_loop(first, last, look, start)
        return (out / total[..., None]).astype(v.dtype), jnp.stack([peak, jnp.log(total)], axis=-1)

    out, lse = jax.lax.map(block, (q, segment_pos, position))
    return out, (q, k, v, segment_pos, position, out, lse)


def _causal_gradient(size, saved, grad):
    q, k, v, segment_pos, position, out, lse = saved
    lse, grad, share, q, k = settled(lse, grad, _share(out, grad), q, k)

    def block(sums, now):
        q, segment_pos, position, grad, lse, share = now
        first, last = _reach(size, k, segment_pos, position)

        def look(index, sums):
            dq, dk_all, dv_all = sums
            k_seen, v_seen, mask = _stretch(size, k, v, segment_pos, position, index)
            more, dk, dv = _gradients(q, k_seen, v_seen, mask, grad, lse, share)
            start = index * size
            return dq + more, _add(dk_all, dk, start, 2), _add(dv_all, dv, start, 2)

        start = (jnp.zeros(q.shape, lse.dtype), *sums)
        dq, *sums = jax.lax.fori_loop(first, last, look, start)
        return tuple(sums), dq.astype(q.dtype)

    zeros = tuple(jnp.zeros(x.shape, lse.dtype) for x in (k, v))
    (dk, dv), dq = jax.lax.scan(block, zeros, (q, segment_pos, position, grad, lse, share))
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None, None


_causal.defvjp(_causal_save, _causal_gradient)


def _stretch(size, k, v, segment_pos, position, index):
    """One block of keys, their values, and who sees them."""
    keys, values = (jax.lax.dynamic_slice_in_dim(x, index * size, size, 2) for x in (k, v))
    place = index * size + jnp.arange(size, dtype=jnp.int32)
    return keys, values, visible(position[..., None] - place, segment_pos[..., None])[:, None]


def _reach(size, k, segment_pos, position):
    """First block of keys that any query of a block sees, and the one after the last."""
    first, last = (position - segment_pos).min() // size, position.max() // size
    return jnp.maximum(first, 0), jnp.minimum(last + 1, k.shape[2] // size)


# ---- One block -----------------------------------------------------------------------------


def _scores(q, k, mask):
    """Products q k^T (B, G, heads b, K), the lowest number where the mask (B, S, b, K) forbids."""
    number = at_least_float32(q.dtype)
    scores = jnp.einsum("bgqp,bgkp->bgqk", q, k, preferred_element_type=number)
    heads = q.shape[2] // mask.shape[2]
    mask = mask if heads == 1 else jnp.tile(mask, (1, 1, heads, 1))
    return jnp.where(mask, scores, jnp.finfo(number).min)


def _share(out, grad):
    """What the softmax subtracts from the gradient of each query's scores."""
    number = at_least_float32(out.dtype)
    return (out.astype(number) * grad.astype(number)).sum(axis=-1)


def _gradients(q, k, v, mask, grad, lse, share):
    """Of one block's queries, keys and values, in the dtype of the scores."""
    dot = functools.partial(jnp.einsum, preferred_element_type=lse.dtype)
    # The peak is subtracted first: added to the other summand, it would lose what that has.
    weights = jnp.exp(_scores(q, k, mask) - lse[..., :1] - lse[..., 1:])
    dv = dot("bgqk,bgqp->bgkp", weights.astype(v.dtype), grad)
    moved = weights * (dot("bgqp,bgkp->bgqk", grad, v) - share[..., None])
    moved = moved.astype(q.dtype)
    return dot("bgqk,bgkp->bgqp", moved, k), dot("bgqk,bgqp->bgkp", moved, q), dv


def _add(x, update, start, axis):
    old = jax.lax.dynamic_slice_in_dim(x, start, update.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(x, old + update.astype(x.dtype), start, axis)


# ---- Layout --------------------------------------------------------------------------------


def _pad(x, before, after):
    """Zeros before and after along the time axis."""
    return jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))


def _heads_first(q, groups, block):
    """(B, n b, H, P) to (n, B, G, heads b, P)."""
    batch, length, heads, width = q.shape
    q = q.reshape(batch, length // block, block, groups, heads // groups, width)
    q = q.transpose(1, 0, 3, 4, 2, 5)
    return q.reshape(length // block, batch, groups, heads // groups * block, width)


def _tokens_first(x, heads):
    """The inverse of :func:`_heads_first`."""
    count, batch, groups, rows, width = x.shape
    block = rows * groups // heads
    x = x.reshape(count, batch, groups, heads // groups, block, width)
    return x.transpose(1, 0, 4, 2, 3, 5).reshape(batch, count * block, heads, width)
