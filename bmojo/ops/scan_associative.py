"""The selective scan, parallel in time within chunks, for accelerators."""

import jax
import jax.numpy as jnp

from bmojo.ops import chunks
from bmojo.ops.collectives import compose, in_document
from bmojo.types import Array

CHUNK_SIZE = 64
"""Tokens of a chunk, or N where N is larger: the states kept are no larger than the inputs."""


def scan(x, dt, A, B, C, state, start, chunk_size=None) -> tuple[Array, Array]:
    """The scan of :func:`bmojo.ops.recurrence.selective_scan`.

    An associative scan over the pairs (decay, input) of a chunk, whose backward pass computes
    it again; chunks follow one another.
    """
    length = x.shape[1]
    count, size = chunks.plan(length, chunk_size or max(CHUNK_SIZE, A.shape[1]))
    inputs = {"x": x, "dt": dt, "B": B, "C": C}
    if start is not None:
        inputs["start"] = start

    @jax.checkpoint
    def chunk(h, now):
        decay = jnp.exp(now["dt"][..., None] * A)
        update = (now["dt"] * now["x"])[..., None] * now["B"][:, :, None, :]
        if start is not None:
            h = jnp.where(now["start"][:, :1, None], 0, h)
        elements = decay, update.at[:, 0].add(decay[:, 0] * h)
        if start is None:
            _, states = jax.lax.associative_scan(compose, elements, axis=1)
        else:
            pairs, combine = (now["start"], elements), in_document(compose)
            _, (_, states) = jax.lax.associative_scan(combine, pairs, axis=1)
        return states[:, -1], jnp.einsum("blen,bln->ble", states, now["C"])

    state, y = jax.lax.scan(
        chunk, state, {k: chunks.split(v, count, size) for k, v in inputs.items()}
    )
    return chunks.join(y, length), state
