"""Attention mass: how the softmax of a query is spread over kinds of memory and distances."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import attention_xla
from bmojo.ops.masks import TIERS, WINDOW, AttentionKeys, distance_bin
from bmojo.types import Array, Bool, Float, Int

SCORES_AT_ONCE = 2**22
"""Attention scores that may exist at the same time; beyond it blocks go one after another."""


def attention_mass(
    q: Float[Array, "*rest L H P"],
    k: Float[Array, "*rest K G P"],
    mask: Bool[Array, "*rest S L K"],
    distance: Int[Array, "*rest S L K"],
    tier: Int[np.ndarray, "K"],
    bins: int,
) -> Float[Array, "*rest L H tiers bins"]:
    """Shares of the softmax of :func:`bmojo.ops.attention_xla.attend`, which sum to one.

    Args:
      q: queries.
      k: keys.
      mask: whether a query sees a key, for all heads (S = 1) or each key-value head.
      distance: tokens from the key forward to the query.
      tier: kind of memory of each key.
      bins: octaves of distance (:func:`bmojo.ops.masks.distance_bin`); the last one also
        counts what lies beyond it.
    """
    *rest, length, heads, _ = q.shape
    weights = attention_xla.softmax_weights(q, k, mask)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    number = jnp.minimum(distance_bin(distance), bins - 1)[..., :, None, :, :]
    tiers = jnp.asarray(tier[:, None] == np.arange(len(TIERS)), weights.dtype)

    def of_bin(index: Array) -> Array:
        return jnp.einsum("...ghls,st->...lght", jnp.where(number == index, weights, 0), tiers)

    shares = jnp.moveaxis(jax.lax.map(of_bin, jnp.arange(bins)), 0, -1)
    return shares.reshape(*rest, length, heads, len(TIERS), bins)


def memory_mass(
    q: Float[Array, "B L H P"], keys: AttentionKeys, bins: int
) -> Float[Array, "B L H tiers bins"]:
    """:func:`attention_mass` of every query over the keys of its block."""

    def look(q: Array, k: Array, mask: Array, distance: Array) -> Array:
        return attention_mass(q, k, mask, distance, keys.tier, bins)

    return over_blocks(look, q, keys.k, keys.mask, keys.distance)


def causal_mass(
    q: Float[Array, "B L H P"],
    k: Float[Array, "B K G P"],
    segment_pos: Int[Array, "B L"],
    position: Int[Array, "B L"],
    bins: int,
) -> Float[Array, "B L H tiers bins"]:
    """:func:`attention_mass` over the whole past, all of which counts as window."""
    length = q.shape[1]
    tier = np.full(k.shape[1], WINDOW)
    most = SCORES_AT_ONCE // (q.shape[0] * q.shape[2] * k.shape[1])
    block = min(length, max(1, most))
    steps = -(-length // block)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, steps * block - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], steps, block, *x.shape[2:]), 1, 0)

    def some(now: tuple[Array, Array, Array]) -> Array:
        q, segment_pos, position = now
        distance = (position[..., None] - jnp.arange(k.shape[1], dtype=jnp.int32))[:, None]
        mask = (distance >= 0) & (distance <= segment_pos[:, None, :, None])
        return attention_mass(q, k, mask, distance, tier, bins)

    out = jnp.moveaxis(jax.lax.map(some, (cut(q), cut(segment_pos), cut(position))), 0, 1)
    return out.reshape(q.shape[0], steps * block, *out.shape[3:])[:, :length]


def over_blocks(look: Callable[..., Array], q: Array, k: Array, *rest: Array) -> Array:
    """``look`` for each block of queries, as many at a time as ``SCORES_AT_ONCE`` allows.

    Args:
      look: called with blocks of queries, their keys and the other arrays of the blocks.
      q: queries (B, L, H, P).
      k: keys (B, n, K, G, P) of n blocks.
      rest: masks, distances (B, n, ...), the last one (B, n, S, b, K).
    """
    (batch, length, heads, width), blocks, block = q.shape, k.shape[1], rest[-1].shape[3]
    q = jnp.pad(q, [(0, 0), (0, blocks * block - length), (0, 0), (0, 0)])
    together = max(1, min(blocks, SCORES_AT_ONCE // (batch * heads * block * k.shape[2])))
    steps = -(-blocks // together)

    def grouped(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, steps * together - blocks)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], steps, together, *x.shape[2:]), 1, 0)

    arrays = (q.reshape(batch, blocks, block, heads, width), k, *rest)
    out = jax.lax.map(lambda xs: look(*xs), tuple(map(grouped, arrays)))
    out = jnp.moveaxis(out, 0, 1).reshape(batch, steps * together, *out.shape[3:])[:, :blocks]
    return out.reshape(batch, blocks * block, *out.shape[3:])[:, :length]
