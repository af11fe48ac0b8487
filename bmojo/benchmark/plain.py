"""The operations written plainly in JAX, as baselines.

Loops of ``lax.scan`` over time, masks over all pairs of tokens, XLA's own convolution. Chunked
loops compute each chunk again in the backward pass, by ``jax.checkpoint``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.types import Array

CHUNK = 64  # tokens of a chunk

Step = Callable[..., tuple[Array, Array]]


def scan_step(h: Array, token: Sequence[Array], A: Array) -> tuple[Array, Array]:
    """One token (x, dt, B, C) of the selective scan: state (B, E, N) and output (B, E)."""
    x, dt, B, C = token
    h = jnp.exp(dt[:, :, None] * A) * h + (dt * x)[:, :, None] * B[:, None, :]
    return h, jnp.sum(h * C[:, None, :], axis=-1)


def ssd_step(h: Array, token: Sequence[Array], A: Array) -> tuple[Array, Array]:
    """One token of Mamba-2's recurrence: state (B, H, P, N) and output (B, H, P)."""
    x, dt, B, C = token
    update = (dt[:, :, None] * x)[..., None] * B[:, None, None, :]
    h = jnp.exp(dt * A)[..., None, None] * h + update
    return h, jnp.sum(h * C[:, None, None, :], axis=-1)


def loop(step: Step, *operands: Array, chunked: bool = False) -> tuple[Array, Array]:
    """``lax.scan`` of ``step`` over all tokens, whole or in chunks: outputs, and the last state."""
    x, dt, A, B, C, state = operands
    tokens = tuple(jnp.swapaxes(value, 0, 1) for value in (x, dt, B, C))
    scan = _in_chunks if chunked else jax.lax.scan
    state, y = scan(lambda h, token: step(h, token, A), state, tokens)
    return jnp.swapaxes(y, 0, 1), state


def _in_chunks(step: Step, state: Array, tokens: Sequence[Array]) -> tuple[Array, Array]:
    """``lax.scan`` in chunks of ``CHUNK`` tokens, and a last one of the tokens left over."""
    length = len(tokens[0])
    whole = length // CHUNK * CHUNK

    @jax.checkpoint
    def chunk(h: Array, tokens: Any) -> tuple[Array, Array]:
        return jax.lax.scan(step, h, tokens)

    cut = tuple(v[:whole].reshape(whole // CHUNK, CHUNK, *v.shape[1:]) for v in tokens)
    state, y = jax.lax.scan(chunk, state, cut)
    y = y.reshape(whole, *y.shape[2:])
    if whole < length:
        state, last = chunk(state, tuple(v[whole:] for v in tokens))
        y = jnp.concatenate([y, last])
    return state, y


def channels_last_in_chunks(*operands: Array) -> tuple[Array, Array]:
    """The selective scan by ``lax.scan`` in the layout that suits XLA's CPU compiler, in chunks.

    The state lies as (N, E), channels last, and rows go one after the other, so that no loop has
    an axis of length one inside.
    """
    x, dt, A, B, C, state = operands
    decay = A.T

    def step(h: Array, token: Sequence[Array]) -> tuple[Array, Array]:
        x, dt, B, C = token
        h = jnp.exp(dt * decay) * h + (dt * x) * B[:, None]
        return h, jnp.sum(h * C[:, None], axis=0)

    def row(values: Sequence[Array]) -> tuple[Array, Array]:
        *tokens, h = values
        h, y = _in_chunks(step, h.T, tokens)
        return y, h.T

    rows = (x, dt, B, C, state)
    if len(x) == 1:
        y, h = row([value[0] for value in rows])
        return y[None], h[None]
    return jax.lax.map(row, rows)


def attention(q: Array, k: Array, v: Array, mask: np.ndarray) -> Array:
    """softmax(q k^T / sqrt(P)) v over all pairs (B, L, H, P), where ``mask`` (L, S) is true."""
    scores = jnp.einsum("blhp,bshp->bhls", q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhls,bshp->blhp", weights, v)


def convolution(x: Array, kernel: Array) -> Array:
    """XLA's depthwise convolution of x (B, L, D) over the past, ``kernel`` (K, D) latest first."""
    taps, channels = kernel.shape
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, None, :],
        window_strides=(1,),
        padding=((taps - 1, 0),),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=channels,
    )


def most_surprising(score: np.ndarray, size: int, chunk: int) -> list[np.ndarray]:
    """The ``size`` tokens of a row with the largest scores before each chunk, and at the end.

    The best comes first; of equals the earlier one is kept, and comes first.
    """
    edges = [*range(0, len(score), chunk), len(score)]
    return [np.argsort(-score[:edge], kind="stable")[:size] for edge in edges]
