"""Cutting time into equal chunks."""

import jax.numpy as jnp

from bmojo.types import Array


def plan(length: int, chunk_size: int) -> tuple[int, int]:
    """Number and size of chunks of at most ``chunk_size`` that cover ``length``.

    The size is the smallest that does with so few chunks, so that little is padded.
    """
    count = max(1, -(-length // chunk_size))
    return count, max(1, -(-length // count))


def split(x: Array, count: int, size: int) -> Array:
    """(B, L, ...) to (count, B, size, ...), padded with zeros on the right."""
    padding = count * size - x.shape[1]
    if padding:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def join(x: Array, length: int) -> Array:
    """The inverse of :func:`split`: (count, B, size, ...) to (B, length, ...)."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
