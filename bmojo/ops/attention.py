"""Attention over what a query may see: a window, memory slots, or the whole past.

Every mask here is made by :func:`visible` from one quantity, the distance in time between
query and key. A slot has a distance too: that of the token it holds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.types import Array, Bool, Float, Int, at_least_float32

TIERS = ("window", "fading", "eidetic")
WINDOW, FADING, EIDETIC = range(len(TIERS))
"""What kind of memory a key is in."""

NEVER = 2**30
"""Distance of an empty slot: further back than any document reaches."""

SCORES_AT_ONCE = 2**22
"""Attention scores that may exist at the same time; beyond it blocks go one after another."""


class Slots(NamedTuple):
    """Memory slots of C chunks, M each.

    Attributes:
      k: keys.
      v: values.
      distance: from the first token of the chunk back to the slot's token, or less: at -j
        the chunk's tokens see the slot from the j-th on. ``NEVER`` where the slot is empty.
    """

    k: Float[Array, "B C M G P"]
    v: Float[Array, "B C M G P"]
    distance: Int[Array, "B C M"]


class View(NamedTuple):
    """What n blocks of b queries may look at: S keys for each block.

    Attributes:
      k: keys.
      v: values.
      mask: whether a query sees a key.
      distance: tokens from the key forward to the query; means nothing where the mask is false.
      tier: of each key, known before anything is computed.
    """

    k: Float[Array, "B n S G P"]
    v: Float[Array, "B n S G P"]
    mask: Bool[Array, "B n b S"]
    distance: Int[Array, "B n b S"]
    tier: Int[np.ndarray, "S"]


def visible(
    distance: Int[Array, "..."],
    segment_pos: Int[Array, "..."],
    window: int | None = None,
    beyond: int = 0,
) -> Bool[Array, "..."]:
    """Which keys a query may attend to.

    Args:
      distance: tokens from the key forward to the query; 0 is the query's own token and a
        negative number marks a key that is not there for this query.
      segment_pos: tokens of the query's document before the query.
      window: keys at this distance or further are out of sight; None: no such limit.
      beyond: keys nearer than this are out of sight.
    """
    seen = (distance >= beyond) & (distance <= segment_pos)
    return seen if window is None else seen & (distance < window)


def attend(
    q: Float[Array, "*rest L H P"],
    k: Float[Array, "*rest S G P"],
    v: Float[Array, "*rest S G P"],
    mask: Bool[Array, "*rest L S"],
) -> Float[Array, "*rest L H P"]:
    """softmax(q k^T / sqrt(P)) v under one softmax, H / G query heads to a key-value head.

    Scores and softmax are float32 or wider, the output has the dtype of ``v``. Every query
    must see at least one key; its own token's always qualifies.
    """
    *rest, length, heads, width = q.shape
    weights = _weights(q, k, mask)
    mixed = jnp.einsum(
        "...ghls,...sgp->...lghp",
        weights.astype(v.dtype),
        v,
        preferred_element_type=weights.dtype,
    )
    inverse = jnp.moveaxis(1 / weights.sum(axis=-1), -1, -3)
    return (mixed * inverse[..., None]).astype(v.dtype).reshape(*rest, length, heads, width)


def spread(
    q: Float[Array, "*rest L H P"],
    k: Float[Array, "*rest S G P"],
    mask: Bool[Array, "*rest L S"],
    distance: Int[Array, "*rest L S"],
    tier: Int[np.ndarray, "S"],
    bins: int,
) -> Float[Array, "*rest L H tiers bins"]:
    """How the softmax of :func:`attend` is spread over tiers and distances.

    Args:
      q: queries.
      k: keys.
      mask: whether a query sees a key.
      distance: tokens from the key forward to the query.
      tier: of each key.
      bins: of distances; what lies beyond the last counts there. See :func:`distance_bin`.

    Returns:
      Shares of every query and head, which sum to one.
    """
    *rest, length, heads, _ = q.shape
    weights = _weights(q, k, mask)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    number = jnp.minimum(distance_bin(distance), bins - 1)[..., None, None, :, :]
    tiers = jnp.asarray(tier[:, None] == np.arange(len(TIERS)), weights.dtype)

    def of_bin(index: Array) -> Array:
        return jnp.einsum("...ghls,st->...lght", jnp.where(number == index, weights, 0), tiers)

    shares = jnp.moveaxis(jax.lax.map(of_bin, jnp.arange(bins)), 0, -1)
    return shares.reshape(*rest, length, heads, len(TIERS), bins)


def distance_bin(distance: Int[Array, "*rest"]) -> Int[Array, "*rest"]:
    """Octave of a distance: 0, 1, 2 .. 3, 4 .. 7, and so on are bins 0, 1, 2, 3, ..."""
    return 32 - jax.lax.clz(jnp.maximum(distance, 0).astype(jnp.int32))


def _weights(q: Array, k: Array, mask: Array) -> Float[Array, "*rest G heads L S"]:
    """exp(q k^T / sqrt(P)) up to a factor for each query, 0 where the mask is false."""
    *rest, length, heads, width = q.shape
    groups = k.shape[-2]
    grouped = (q * width**-0.5).reshape(*rest, length, groups, heads // groups, width)
    dtype = at_least_float32(q.dtype)
    scores = jnp.einsum("...lghp,...sgp->...ghls", grouped, k, preferred_element_type=dtype)
    scores = jnp.where(mask[..., None, None, :, :], scores, jnp.finfo(dtype).min)
    peak = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    return jnp.exp(scores - peak)


def memory_view(
    k: Float[Array, "B L G P"],
    v: Float[Array, "B L G P"],
    tail_k: Float[Array, "B T G P"],
    tail_v: Float[Array, "B T G P"],
    segment_pos: Int[Array, "B L"],
    *,
    window: int,
    slots: Slots | None = None,
    slot_range: tuple[int, int | None] = (0, None),
    offset: Int[Array, "B"] | None = None,
    num_fading: int = 0,
) -> View:
    """The keys that a window and slots show, in blocks of at most W queries.

    What :func:`bmojo.ops.blocked_attention.memory_attention` looks at, written out.

    Args:
      k: keys of the call's tokens.
      v: their values.
      tail_k: keys before the call.
      tail_v: their values.
      segment_pos: tokens of the same document before each token.
      window: W.
      slots: of the chunks that the call touches.
      slot_range: distances at which a slot is seen.
      offset: tokens of the current chunk that precede the call.
      num_fading: slots of each chunk, the first ones, that are fading and not eidetic.
    """
    length, block = k.shape[1], min(window, k.shape[1])
    blocks = -(-length // block)
    padding = blocks * block - length

    def own(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], blocks, block, *x.shape[2:])

    def with_previous(tail: Array, x: Array) -> Array:
        first = jnp.pad(tail, [(0, 0), (1, 0), (0, 0), (0, 0)])[:, None]
        now = own(x)
        before = first if blocks == 1 else jnp.concatenate([first, now[:, :-1]], axis=1)
        return jnp.concatenate([before, now], axis=2)

    keys, values = with_previous(tail_k, k), with_previous(tail_v, v)
    back = window + jnp.arange(block)[:, None] - jnp.arange(window + block)
    mask = visible(back, own(segment_pos)[..., None], window)
    distance = jnp.broadcast_to(back.astype(jnp.int32), mask.shape)
    tier = np.full(window + block, WINDOW)
    if slots is not None and slots.k.shape[2]:
        step = jnp.arange(blocks * block, dtype=jnp.int32).reshape(1, blocks, block)
        since = step if offset is None else step + offset[:, None, None]
        held, reach = _slots_of_blocks(slots, since, window)
        keys = jnp.concatenate([keys, held.k], axis=2)
        values = jnp.concatenate([values, held.v], axis=2)
        seen = visible(
            reach, own(segment_pos)[..., None], window=slot_range[1], beyond=slot_range[0]
        )
        mask = jnp.concatenate([mask, seen], axis=3)
        distance = jnp.concatenate([distance, reach], axis=3)
        kind = np.where(np.arange(slots.k.shape[2]) < num_fading, FADING, EIDETIC)
        tier = np.concatenate([tier, np.tile(kind, held.k.shape[2] // len(kind))])
    return View(keys, values, mask, distance, tier)


def attend_view(q: Float[Array, "B L H P"], view: View) -> Float[Array, "B L H P"]:
    """:func:`attend` of every query to the keys of its block."""
    return _over_blocks(attend, q, view.k, view.v, view.mask)


def spread_view(
    q: Float[Array, "B L H P"], view: View, bins: int
) -> Float[Array, "B L H tiers bins"]:
    """:func:`spread` of every query over the keys of its block."""

    def look(q: Array, k: Array, mask: Array, distance: Array) -> Array:
        return spread(q, k, mask, distance, view.tier, bins)

    return _over_blocks(look, q, view.k, view.mask, view.distance)


def _slots_of_blocks(
    slots: Slots, since: Int[Array, "rows n b"], window: int
) -> tuple[Slots, Int[Array, "B n b M"]]:
    """Slots that each block of queries may need, and their distance from every query.

    ``since`` counts tokens from the first edge of the grid, for each row or for all. Off the
    grid a block of queries touches two chunks, and gets the slots of both.
    """
    blocks = since.shape[1]
    extra = slots.k.shape[1] - blocks
    parts, reaches = [], []
    for ahead in range(extra + 1):
        part = Slots(*(x[:, ahead : ahead + blocks] for x in slots))
        number = jnp.arange(blocks)[:, None] + ahead
        reach = (since % window)[..., None] + part.distance[:, :, None]
        reaches.append(jnp.where((since // window == number)[..., None], reach, -1))
        parts.append(part)
    joined = Slots(*(jnp.concatenate(x, axis=2) for x in zip(*parts, strict=True)))
    return joined, jnp.concatenate(reaches, axis=-1)


def _over_blocks(look: Callable[..., Array], q: Array, k: Array, *rest: Array) -> Array:
    """``look`` for each block of queries, as many at a time as ``SCORES_AT_ONCE`` allows.

    Args:
      look: called with blocks of queries, with keys and what else there is for the blocks.
      q: queries (B, L, H, P).
      k: keys (B, n, S, G, P) of n blocks.
      rest: values, masks, distances (B, n, ...), the last one (B, n, b, S).
    """
    (batch, length, heads, width), (blocks, block) = q.shape, rest[-1].shape[1:3]
    q = jnp.pad(q, [(0, 0), (0, blocks * block - length), (0, 0), (0, 0)])
    arrays = (q.reshape(batch, blocks, block, heads, width), k, *rest)
    each = batch * heads * block * k.shape[2]
    together = max(1, min(blocks, SCORES_AT_ONCE // each))
    if together == blocks:
        out = look(*arrays)
    else:
        steps = -(-blocks // together)

        def grouped(x: Array) -> Array:
            padding = steps * together - blocks
            x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(x.shape[0], steps, together, *x.shape[2:]), 1, 0)

        some = jax.checkpoint(lambda xs: look(*xs))
        out = jnp.moveaxis(jax.lax.map(some, tuple(map(grouped, arrays))), 0, 1)
        out = out.reshape(batch, steps * together, *out.shape[3:])[:, :blocks]
    return out.reshape(batch, blocks * block, *out.shape[3:])[:, :length]


def causal_spread(
    q: Float[Array, "B L H P"],
    k: Float[Array, "B S G P"],
    segment_pos: Int[Array, "B L"],
    position: Int[Array, "B L"],
    bins: int,
) -> Float[Array, "B L H tiers bins"]:
    """:func:`spread` over the whole past, all of which counts as window."""
    tier = np.full(k.shape[1], WINDOW)

    def look(q: Array, mask: Array, distance: Array) -> Array:
        return spread(q, k, mask, distance, tier, bins)

    return _over_queries(look, q, segment_pos, position, k.shape[1])


def _over_queries(
    look: Callable[[Array, Array, Array], Array],
    q: Array,
    segment_pos: Array,
    position: Array,
    keys: int,
) -> Array:
    """``look(q, mask, distance)`` for as many queries at a time as ``SCORES_AT_ONCE`` allows."""
    batch, length, heads, _ = q.shape
    index = jnp.arange(keys, dtype=jnp.int32)

    @jax.checkpoint
    def some(q: Array, segment_pos: Array, position: Array) -> Array:
        distance = position[..., None] - index
        return look(q, visible(distance, segment_pos[..., None]), distance)

    block = min(length, max(1, SCORES_AT_ONCE // (batch * heads * keys)))
    if block == length:
        return some(q, segment_pos, position)
    steps = -(-length // block)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, steps * block - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, steps, block, *x.shape[2:]), 1, 0)

    out = jax.lax.map(lambda xs: some(*xs), (cut(q), cut(segment_pos), cut(position)))
    return jnp.moveaxis(out, 0, 1).reshape(batch, steps * block, *out.shape[3:])[:, :length]


def rotate(x: Float[Array, "B L H P"], segment_pos: Int[Array, "B L"], theta: float) -> Array:
    """Rotary position embedding (arXiv 2104.09864) by the token's place in its document."""
    half = x.shape[-1] // 2
    dtype = at_least_float32(x.dtype)
    rate = theta ** (-jnp.arange(half, dtype=dtype) / half)
    angle = (segment_pos.astype(dtype)[..., None] * rate)[:, :, None]
    first, second = x[..., :half].astype(dtype), x[..., half:].astype(dtype)
    turned = [
        first * jnp.cos(angle) - second * jnp.sin(angle),
        second * jnp.cos(angle) + first * jnp.sin(angle),
    ]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
