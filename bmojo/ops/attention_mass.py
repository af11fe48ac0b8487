"""Attention mass: how the softmax of a query is spread over kinds of memory and distances."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import attention_xla, chunks
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

    ``distance`` and ``tier`` are those of :class:`bmojo.ops.masks.AttentionKeys`, ``bins`` octaves
    of distance (:func:`bmojo.ops.masks.distance_bin`), the last with what lies beyond it.
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

    def some(now: tuple[Array, Array, Array]) -> Array:
        q, segment_pos, position = now
        distance = (position[..., None] - jnp.arange(k.shape[1], dtype=jnp.int32))[:, None]
        mask = (distance >= 0) & (distance <= segment_pos[:, None, :, None])
        return attention_mass(q, k, mask, distance, tier, bins)

    arrays = tuple(chunks.split(x, steps, block) for x in (q, segment_pos, position))
    return chunks.join(jax.lax.map(some, arrays), length)


def over_blocks(look: Callable[..., Array], q: Array, k: Array, *rest: Array) -> Array:
    """``look`` for each block of queries, as many at a time as ``SCORES_AT_ONCE`` allows.

    It is called with blocks of queries ``q`` (B, L, H, P), their keys ``k`` (B, n, K, G, P) and the
    other arrays (B, n, ...), the last one (B, n, S, b, K).
    """
    (batch, length, heads, _), blocks, block = q.shape, k.shape[1], rest[-1].shape[3]
    together = max(1, min(blocks, SCORES_AT_ONCE // (batch * heads * block * k.shape[2])))
    steps = -(-blocks // together)
    arrays = (jnp.moveaxis(chunks.split(q, blocks, block), 0, 1), k, *rest)
    grouped = tuple(chunks.split(x, steps, together) for x in arrays)
    out = chunks.join(jax.lax.map(lambda xs: look(*xs), grouped), blocks)
    return out.reshape(batch, blocks * block, *out.shape[3:])[:, :length]
