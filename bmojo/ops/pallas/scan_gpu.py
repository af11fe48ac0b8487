"""The selective scan's kernels for GPUs, in Triton.

A program takes one row and a block of channels and walks through time, its state (N, channels)
in registers. The backward kernel walks back chunk by chunk: chunks are short enough that their
states, computed again from the one before the chunk, stay in registers too.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from bmojo.ops.pallas.targets import like
from bmojo.types import Array

Ref = Any

TOKENS = 16
"""The most tokens of a chunk: so many states are in registers at once."""

EACH = 8
"""Numbers of a state in one thread's registers."""


def warps(channels: int, d_state: int) -> int:
    """Warps of 32 threads for one program."""
    return max(1, channels * d_state // (32 * EACH))


def forward(
    tokens: int, channels: int, interpret: bool, x, dt, A, B, C, keep, h, save: bool
) -> tuple[Array, Array, Array | None]:
    """See :func:`bmojo.ops.pallas.scan_tpu.forward`; N and ``channels`` are powers of two."""
    rows, length, width = x.shape
    d_state, count = A.shape[0], length // tokens
    at = _Specs(length, count, channels, d_state)
    starts = [] if keep is None else [keep]
    out_specs, out_shape = [at.time, at.row], [like(x), like(h)]
    if save:
        out_specs.append(at.bound)
        out_shape.append(jax.ShapeDtypeStruct((rows, count, d_state, width), x.dtype))
    y, last, *bounds = pl.pallas_call(
        functools.partial(_forward, tokens, count, bool(starts), save),
        grid=(rows, width // channels),
        in_specs=[at.time, at.time, at.fixed, at.row, at.token, at.token] + [at.flag] * len(starts),
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=triton.CompilerParams(num_warps=warps(channels, d_state), num_stages=1),
        interpret=interpret,
        name="selective_scan",
    )(x, dt, A, h, B, C, *starts)
    return y, last, bounds[0] if save else None


def backward(
    tokens: int, channels: int, interpret: bool, x, dt, A, B, C, keep, bounds, dy, g
) -> tuple[Array, ...]:
    """See :func:`bmojo.ops.pallas.scan_tpu.backward`."""
    rows, length, width = x.shape
    d_state, count, parts = A.shape[0], length // tokens, width // channels
    at = _Specs(length, count, channels, d_state)
    starts = [] if keep is None else [keep]
    shared = jax.ShapeDtypeStruct((rows, parts, length, d_state), x.dtype)
    dx, ddt, dA, dh, dB, dC = pl.pallas_call(
        functools.partial(_backward, tokens, count, bool(starts)),
        grid=(rows, parts),
        in_specs=[at.time, at.time, at.time, at.fixed, at.row, at.bound, at.token, at.token]
        + [at.flag] * len(starts),
        out_specs=[at.time, at.time, at.row, at.row, at.shared, at.shared],
        out_shape=[like(x), like(x), like(g), like(g), shared, shared],
        compiler_params=triton.CompilerParams(num_warps=warps(channels, d_state), num_stages=1),
        interpret=interpret,
        name="selective_scan_backward",
    )(x, dt, dy, A, g, bounds, B, C, *starts)
    return dx, ddt, dA.sum(axis=0), dB.sum(axis=1), dC.sum(axis=1), dh


class _Specs:
    """Which part of each kind of array a program sees."""

    def __init__(self, length: int, count: int, channels: int, d_state: int):
        state = (d_state, channels)
        self.time = pl.BlockSpec((None, length, channels), lambda b, e: (b, 0, e))
        self.fixed = pl.BlockSpec(state, lambda b, e: (0, e))
        self.row = pl.BlockSpec((None, *state), lambda b, e: (b, 0, e))
        self.bound = pl.BlockSpec((None, count, *state), lambda b, e: (b, 0, 0, e))
        self.token = pl.BlockSpec((None, length, d_state), lambda b, e: (b, 0, 0))
        self.flag = pl.BlockSpec((None, length), lambda b, e: (b, 0))
        self.shared = pl.BlockSpec((None, None, length, d_state), lambda b, e: (b, e, 0, 0))


def _forward(tokens: int, count: int, starts: bool, save: bool, *refs: Ref) -> None:
    x_ref, dt_ref, A_ref, first_ref, B_ref, C_ref, *refs_ = refs
    keep_ref = refs_.pop(0) if starts else None
    y_ref, last_ref, *bound_ref = refs_
    A = A_ref[...]

    def token(t: Array, h: Array) -> Array:
        decay, forced = _decay(dt_ref, A, t), dt_ref[t, :] * x_ref[t, :]
        h = decay * _kept(keep_ref, t, h) + B_ref[t, :][:, None] * forced[None, :]
        y_ref[t, :] = jnp.sum(h * C_ref[t, :][:, None], axis=0)
        return h

    def chunk(c: Array, h: Array) -> Array:
        if save:
            bound_ref[0][c] = h
        return jax.lax.fori_loop(0, tokens, lambda i, h: token(c * tokens + i, h), h)

    last_ref[...] = jax.lax.fori_loop(0, count, chunk, first_ref[...])


def _backward(tokens: int, count: int, starts: bool, *refs: Ref) -> None:
    x_ref, dt_ref, dy_ref, A_ref, last_ref, bound_ref, B_ref, C_ref, *refs_ = refs
    keep_ref = refs_.pop(0) if starts else None
    dx_ref, ddt_ref, dA_ref, dh_ref, dB_ref, dC_ref = refs_
    A = A_ref[...]

    def chunk(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        g, dA = carry
        c = count - 1 - i
        states = [bound_ref[c]]
        for j in range(tokens):
            t = c * tokens + j
            forced = dt_ref[t, :] * x_ref[t, :]
            h = _decay(dt_ref, A, t) * _kept(keep_ref, t, states[-1])
            states.append(h + B_ref[t, :][:, None] * forced[None, :])
        for j in reversed(range(tokens)):
            t = c * tokens + j
            dt, x, dy, B = dt_ref[t, :], x_ref[t, :], dy_ref[t, :], B_ref[t, :]
            dC_ref[t, :] = jnp.sum(states[j + 1] * dy[None, :], axis=1)
            g = g + C_ref[t, :][:, None] * dy[None, :]
            dB_ref[t, :] = jnp.sum(g * (dt * x)[None, :], axis=1)
            d_forced = jnp.sum(g * B[:, None], axis=0)
            g = _kept(keep_ref, t, g * _decay(dt_ref, A, t))
            d_log = g * _kept(keep_ref, t, states[j])
            dx_ref[t, :] = dt * d_forced
            ddt_ref[t, :] = x * d_forced + jnp.sum(d_log * A, axis=0)
            dA = dA + d_log * dt[None, :]
        return g, dA

    g, dA = jax.lax.fori_loop(0, count, chunk, (last_ref[...], jnp.zeros_like(A)))
    dh_ref[...] = g
    dA_ref[...] = dA


def _decay(dt_ref: Ref, A: Array, t: Array) -> Array:
    """What token t leaves of the state before it."""
    return jnp.exp(dt_ref[t, :][None, :] * A)


def _kept(keep_ref: Ref | None, t: Array, x: Array) -> Array:
    """A state before token t or its derivative: nothing where the token starts a document."""
    return x if keep_ref is None else jnp.where(keep_ref[t] > 0, x, 0)
