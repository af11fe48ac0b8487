"""Attention masks: which keys of a window, of memory slots or of the past a query may see.

Every mask is made by :func:`visible` from one quantity, the distance in time between query and
key. A slot has a distance too: that of the token it holds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.types import Array, Bool, Float, Int

TIERS = ("window", "fading", "eidetic")
WINDOW, FADING, EIDETIC = range(len(TIERS))
"""Kinds of memory that a key may belong to."""

NEVER = 2**30
"""Distance of a vacant slot: further back than any document reaches."""


class Slots(NamedTuple):
    """Memory slots of C chunks, M each.

    Attributes:
      k: keys.
      v: values.
      distance: from the first token of the chunk back to the slot's token, or less: at -j
        the chunk's tokens see the slot from the j-th on. ``NEVER`` where the slot is vacant.
        S is 1 where all key-value heads hold the same tokens, else G.
    """

    k: Float[Array, "B C M G P"]
    v: Float[Array, "B C M G P"]
    distance: Int[Array, "B C S M"]


class AttentionKeys(NamedTuple):
    """All keys that n blocks of b queries may see, K for each block.

    Attributes:
      k: keys.
      v: values.
      mask: whether a query sees a key; S is 1 where that is the same for all heads, else G.
      distance: tokens from the key forward to the query; without meaning where the mask is
        false.
      tier: kind of memory of each key, known before anything is computed.
    """

    k: Float[Array, "B n K G P"]
    v: Float[Array, "B n K G P"]
    mask: Bool[Array, "B n S b K"]
    distance: Int[Array, "B n S b K"]
    tier: Int[np.ndarray, "K"]


@jax.custom_vjp
def finite_gradient(tree: Any) -> Any:
    """``tree``, whose gradients count as zero where they are not finite."""
    return tree


def finite(x: Array) -> Array:
    """``x``, zero where it is not finite."""
    return jnp.where(jnp.isfinite(x), x, 0)


finite_gradient.defvjp(lambda tree: (tree, None), lambda _, grad: (jax.tree.map(finite, grad),))


def settled(lse: Array, grad: Array, share: Array, *operands: Array) -> tuple[Array, ...]:
    """What a backward pass may multiply by weights of zero, finite.

    Rows whose output was not finite pass nothing back: their log-sum-exp, whose two summands are
    the last axis, becomes infinite.
    """
    good = jnp.isfinite(lse).all(axis=-1) & jnp.isfinite(share)
    rest = (finite(grad), jnp.where(good, share, 0), *map(finite, operands))
    return jnp.where(good[..., None], lse, jnp.inf), *rest


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
      window: keys at this distance or further are out of reach; None: no such limit.
      beyond: keys nearer than this are out of reach.
    """
    seen = (distance >= beyond) & (distance <= segment_pos)
    return seen if window is None else seen & (distance < window)


def memory_keys(
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
) -> AttentionKeys:
    """The keys of window and slots, written out for blocks of at most W queries.

    Arguments are those of :func:`bmojo.ops.memory_attention.memory_attention`. The first
    ``num_fading`` slots of each chunk are fading, the others eidetic.
    """
    length, block = k.shape[1], min(window, k.shape[1])
    blocks = -(-length // block)
    padding = blocks * block - length

    def in_blocks(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], blocks, block, *x.shape[2:])

    def with_previous(tail: Array, x: Array) -> Array:
        first = jnp.pad(tail, [(0, 0), (1, 0), (0, 0), (0, 0)])[:, None]
        now = in_blocks(x)
        before = first if blocks == 1 else jnp.concatenate([first, now[:, :-1]], axis=1)
        return jnp.concatenate([before, now], axis=2)

    # 1. The window: a block of queries sees itself and the block before it.
    keys, values = with_previous(tail_k, k), with_previous(tail_v, v)
    own_pos = in_blocks(segment_pos)[:, :, None, :, None]
    back = window + jnp.arange(block)[:, None] - jnp.arange(window + block)
    mask = visible(back, own_pos, window)
    distance = jnp.broadcast_to(back.astype(jnp.int32), mask.shape)
    tier = np.full(window + block, WINDOW)
    if slots is None or not slots.k.shape[2]:
        return AttentionKeys(keys, values, mask, distance, tier)

    # 2. The slots of its chunk; off the grid a block touches two chunks and gets both.
    step = jnp.arange(blocks * block, dtype=jnp.int32).reshape(1, blocks, block)
    since = step if offset is None else step + offset[:, None, None]
    held, reach = _slots_of_blocks(slots, since, window)
    seen = visible(reach, own_pos, window=slot_range[1], beyond=slot_range[0])
    heads = (*mask.shape[:2], seen.shape[2], *mask.shape[3:])
    kind = np.where(np.arange(slots.k.shape[2]) < num_fading, FADING, EIDETIC)
    return AttentionKeys(
        jnp.concatenate([keys, held.k], axis=2),
        jnp.concatenate([values, held.v], axis=2),
        jnp.concatenate([jnp.broadcast_to(mask, heads), seen], axis=4),
        jnp.concatenate([jnp.broadcast_to(distance, heads), reach], axis=4),
        np.concatenate([tier, np.tile(kind, held.k.shape[2] // len(kind))]),
    )


def _slots_of_blocks(
    slots: Slots, since: Int[Array, "rows n b"], window: int
) -> tuple[Slots, Int[Array, "B n S b M"]]:
    """Slots that each block of queries may need, and their distance from every query.

    ``since`` counts tokens from the first edge of the grid, for each row or for all.
    """
    blocks = since.shape[1]
    extra = slots.k.shape[1] - blocks
    parts, reaches = [], []
    for ahead in range(extra + 1):
        part = Slots(*(x[:, ahead : ahead + blocks] for x in slots))
        number = jnp.arange(blocks)[:, None] + ahead
        reach = (since % window)[:, :, None, :, None] + part.distance[:, :, :, None]
        own = (since // window == number)[:, :, None, :, None]
        reaches.append(jnp.where(own, reach, -1))
        parts.append(part)
    k, v = (jnp.concatenate(x, axis=2) for x in zip(*(part[:2] for part in parts), strict=True))
    distance = jnp.concatenate([part.distance for part in parts], axis=3)
    return Slots(k, v, distance), jnp.concatenate(reaches, axis=-1)


def distance_bin(distance: Int[Array, "*rest"]) -> Int[Array, "*rest"]:
    """Octave of a distance: 0, 1, 2 .. 3, 4 .. 7, and so on are bins 0, 1, 2, 3, ..."""
    return 32 - jax.lax.clz(jnp.maximum(distance, 0).astype(jnp.int32))
