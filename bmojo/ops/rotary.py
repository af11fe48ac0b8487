"""Rotary position embedding."""

import jax.numpy as jnp

from bmojo.types import Array, Float, Int, at_least_float32


def rotate(
    x: Float[Array, "B L H P"], segment_pos: Int[Array, "B L"], theta: float
) -> Float[Array, "B L H P"]:
    """Rotate pairs of channels by the token's place in its document (arXiv 2104.09864).

    Args:
      x: queries or keys; channels i and i + P/2 are a pair.
      segment_pos: tokens of the same document before each token.
      theta: base of the rates theta^(-2i/P).

    Returns:
      The rotated vectors in the dtype of ``x``; angles are float32 or wider.
    """
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
