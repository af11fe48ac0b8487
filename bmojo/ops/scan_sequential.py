"""The selective scan as loops in time, for processors that like small arrays in cache."""

import jax
import jax.numpy as jnp

from bmojo.ops import chunks
from bmojo.types import Array

CHUNK_SIZE = 32
"""Tokens of a chunk, or N where N is larger: the states kept are no larger than the inputs."""


def scan(x, dt, A, B, C, state, start, chunk_size=None) -> tuple[Array, Array]:
    """The scan of :func:`bmojo.ops.recurrence.selective_scan`.

    A loop over chunks of a loop over tokens. The backward pass runs the adjoint recurrence
    g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1} against time, chunk by chunk, after computing the
    states of the chunk again from the one before it.
    """
    length = x.shape[1]
    count, size = chunks.plan(length, chunk_size or max(CHUNK_SIZE, A.shape[1]))

    # XLA's CPU compiler does not vectorize loops over arrays with a batch axis of one.
    lone = x.shape[0] == 1

    def time_major(v):
        v = jnp.swapaxes(chunks.split(v, count, size), 1, 2)
        return v[:, :, 0] if lone else v

    inputs = {"x": time_major(x), "dt": time_major(dt), "B": time_major(B), "C": time_major(C)}
    if start is not None:
        inputs["start"] = time_major(start)
    h = jnp.swapaxes(state[0] if lone else state, -1, -2)
    y, h = _scan(inputs, A.T, h)
    y, h = (y[:, :, None], h[None]) if lone else (y, h)
    return chunks.join(jnp.swapaxes(y, 1, 2), length), jnp.swapaxes(h, -1, -2)


# Below, inputs are chunk, time, (row,) channel; A is (N, E); h and g are (row,) N, E: sums over
# states then run across contiguous channels.


@jax.custom_vjp
def _scan(inputs, A, h):
    y, h, _ = _forward(inputs, A, h)
    return y, h


def _forward(inputs, A, h):
    """Outputs, the last state, and the state before each chunk."""

    def step(h, now):
        h = _next(now, _decay(now, A), _continued(now, h))
        return h, jnp.sum(h * now["C"][..., :, None], axis=-2)

    def chunk(h, now):
        after, y = jax.lax.scan(step, h, now)
        return after, (y, h)

    h, (y, before) = jax.lax.scan(chunk, h, inputs)
    return y, h, before


def _save(inputs, A, h):
    y, h, before = _forward(inputs, A, h)
    return (y, h), (inputs, A, before)


def _backward(saved, cotangents):
    inputs, A, before = saved
    dy, g = cotangents

    def recompute(h, now):
        decay = _decay(now, A)
        return _next(now, decay, _continued(now, h)), (h, decay)

    def step(carry, now):
        g, dA, h = carry
        token, dy, (h_before, decay) = now
        x, dt, B, C = (token[name] for name in ("x", "dt", "B", "C"))
        dC = jnp.einsum("...ne,...e->...n", h, dy)
        g = g + C[..., :, None] * dy[..., None, :]
        g_before = _continued(token, g * decay)
        dB = jnp.einsum("...ne,...e->...n", g, dt * x)
        d_input = jnp.sum(g * B[..., :, None], axis=-2)
        d_log_decay = g_before * _continued(token, h_before)
        grads = {
            "x": dt * d_input,
            "dt": x * d_input + jnp.sum(d_log_decay * A, axis=-2),
            "B": dB,
            "C": dC,
        }
        dA = dA + jnp.sum(d_log_decay * dt[..., None, :], axis=range(g.ndim - 2))
        return (g_before, dA, h_before), grads

    def chunk(carry, now):
        g, dA = carry
        tokens, dy, h = now
        h, befores = jax.lax.scan(recompute, h, tokens)
        (g, dA, _), grads = jax.lax.scan(step, (g, dA, h), (tokens, dy, befores), reverse=True)
        return (g, dA), grads

    (g, dA), grads = jax.lax.scan(chunk, (g, jnp.zeros_like(A)), (inputs, dy, before), reverse=True)
    if "start" in inputs:
        grads["start"] = None
    return grads, dA, g


_scan.defvjp(_save, _backward)


def _decay(token, A):
    """What the token leaves of the state before it."""
    return jnp.exp(token["dt"][..., None, :] * A)


def _continued(token, state):
    """The state before a token, or its derivative: nothing if the token starts a document."""
    return jnp.where(token["start"][..., None, None], 0, state) if "start" in token else state


def _next(token, decay, h):
    """The state after a token."""
    update = token["B"][..., :, None] * (token["dt"] * token["x"])[..., None, :]
    return decay * h + update
