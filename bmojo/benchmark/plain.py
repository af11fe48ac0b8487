"""The operations written down plainly in JAX: what a reader would write first, to compare with.

Time loops of ``lax.scan``, masks over all pairs of tokens, XLA's own convolution. Chunked loops
compute each chunk again in the backward pass, by ``jax.checkpoint``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.types import Array

__all__ = [
    "attention",
    "channels_last_in_chunks",
    "convolution",
    "insertion",
    "loop",
    "loop_in_chunks",
    "scan_step",
    "ssd_step",
]

CHUNK = 64
"""Tokens of a chunk of the baseline."""

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


def loop(step: Step, x: Array, dt: Array, A: Array, B: Array, C: Array, state: Array) -> Any:
    """``lax.scan`` of ``step`` over all tokens; outputs, and the last state."""
    tokens = tuple(jnp.swapaxes(value, 0, 1) for value in (x, dt, B, C))
    state, y = jax.lax.scan(lambda h, token: step(h, token, A), state, tokens)
    return jnp.swapaxes(y, 0, 1), state


def loop_in_chunks(
    step: Step, x: Array, dt: Array, A: Array, B: Array, C: Array, state: Array
) -> Any:
    """:func:`loop` in chunks of ``CHUNK`` tokens, or of all that are left over behind them."""
    whole = x.shape[1] // CHUNK * CHUNK
    parts = tuple(jnp.swapaxes(value, 0, 1) for value in (x, dt, B, C))

    @jax.checkpoint
    def chunk(h: Array, tokens: Any) -> tuple[Array, Array]:
        return jax.lax.scan(lambda h, token: step(h, token, A), h, tokens)

    cut = tuple(v[:whole].reshape(whole // CHUNK, CHUNK, *v.shape[1:]) for v in parts)
    state, y = jax.lax.scan(chunk, state, cut)
    y = y.reshape(whole, *y.shape[2:])
    if whole < x.shape[1]:
        state, last = chunk(state, tuple(v[whole:] for v in parts))
        y = jnp.concatenate([y, last])
    return jnp.swapaxes(y, 0, 1), state


def channels_last_in_chunks(
    x: Array, dt: Array, A: Array, B: Array, C: Array, state: Array
) -> tuple[Array, Array]:
    """The selective scan by ``lax.scan`` as XLA's CPU compiler likes it, in chunks as above.

    The state lies as (N, E), channels last, and rows go one after the other, so that no loop has
    an axis of length one inside.
    """
    whole = x.shape[1] // CHUNK * CHUNK
    decay = A.T

    def step(h: Array, token: Sequence[Array]) -> tuple[Array, Array]:
        x, dt, B, C = token
        h = jnp.exp(dt * decay) * h + (dt * x) * B[:, None]
        return h, jnp.sum(h * C[:, None], axis=0)

    @jax.checkpoint
    def chunk(h: Array, tokens: Any) -> tuple[Array, Array]:
        return jax.lax.scan(step, h, tokens)

    def row(operands: Sequence[Array]) -> tuple[Array, Array]:
        *parts, h = operands
        cut = tuple(v[:whole].reshape(whole // CHUNK, CHUNK, *v.shape[1:]) for v in parts)
        h, y = jax.lax.scan(chunk, h.T, cut)
        y = y.reshape(whole, *y.shape[2:])
        if whole < len(parts[0]):
            h, last = chunk(h, tuple(v[whole:] for v in parts))
            y = jnp.concatenate([y, last])
        return y, h.T

    operands = (x, dt, B, C, state)
    if len(x) == 1:
        y, h = row([value[0] for value in operands])
        return y[None], h[None]
    return jax.lax.map(row, operands)


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


def insertion(score: np.ndarray, size: int, chunk: int) -> list[list[int]]:
    """The ``size`` most surprising tokens of a row before each chunk, by sequential insertion.

    A token that surprises more takes the place of the one that surprises least, the latest of
    several. Element j holds the tokens before chunk j, the last one those at the end.
    """
    kept: list[int] = []
    sets = []
    for token, value in enumerate(score):
        if token % chunk == 0:
            sets.append(sorted(kept))
        if len(kept) < size:
            kept.append(token)
        elif size:
            least = min(kept, key=lambda other: (score[other], -other))
            if value > score[least]:
                kept[kept.index(least)] = token
    return [*sets, sorted(kept)]
