"""The selective scan's kernels for TPUs.

The grid is (row, block of channels, chunk); chunks follow one another, forward in the forward
kernel and backward in the backward kernel, and hand the state on in vector memory. States are
(N, channels): channels lie along lanes, and sums over states run over sublanes. Tokens are
taken eight at a time, a register's rows. B and C come as (N, tokens); a token's column is cut
out by a mask and a sum over lanes, which is exact and needs no access at a moving lane.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bmojo.ops.pallas.targets import SUBLANES, like, tiled_bytes
from bmojo.types import Array

Ref = Any


def vmem_bytes(tokens: int, channels: int, d_state: int) -> int:
    """Vector memory that the backward kernel takes, the larger of the two.

    Blocks are there twice, because the next ones are fetched meanwhile: x, dt, dy, dx and ddt
    of (tokens, channels); B, C, dB, dC and the starts of (N, tokens); A, the boundary state and
    three more of (N, channels). The states of a chunk, (tokens, N, channels), are there once.
    """
    blocks = 5 * tiled_bytes(tokens, channels)
    blocks += 5 * tiled_bytes(d_state, tokens) + 5 * tiled_bytes(d_state, channels)
    scratch = tiled_bytes(tokens, d_state, channels) + 2 * tiled_bytes(d_state, channels)
    return 2 * blocks + scratch


def forward(
    tokens: int, channels: int, interpret: bool, x, dt, A, B, C, keep, h, save: bool
) -> tuple[Array, Array, Array | None]:
    """Outputs, the last state and, with ``save``, the state before each chunk.

    ``x`` and ``dt`` are (B, T, E), T a multiple of ``tokens``, those of a chunk, and of 8, and E of
    ``channels``, those of a block; A is (N, E), B and C (B, T, N), h (B, N, E); ``keep`` (B, T) is
    0 where a document starts and 1 elsewhere (None: 1 everywhere).
    """
    rows, length, width = x.shape
    d_state, count = A.shape[0], length // tokens
    at = _Specs(tokens, channels, d_state, lambda c: c)
    across = [] if keep is None else [_across(keep[..., None], count, d_state)]
    out_specs, out_shape = [at.time, at.row], [like(x), like(h)]
    if save:
        out_specs.append(at.bound)
        out_shape.append(jax.ShapeDtypeStruct((rows, count, d_state, width), x.dtype))
    y, last, *bounds = pl.pallas_call(
        functools.partial(_forward, count, bool(across), save),
        grid=(rows, width // channels, count),
        in_specs=[at.time, at.time, at.fixed, at.row, at.token, at.token]
        + [at.token] * bool(across),
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=[pltpu.VMEM((d_state, channels), x.dtype)],
        compiler_params=_params(),
        interpret=interpret,
        name="selective_scan",
    )(x, dt, A, h, _across(B, count), _across(C, count), *across)
    return y, last, bounds[0] if save else None


def backward(
    tokens: int, channels: int, interpret: bool, x, dt, A, B, C, keep, bounds, dy, g
) -> tuple[Array, ...]:
    """Gradients with respect to x, dt, A, B, C and h, from those of the outputs and last state."""
    rows, length, width = x.shape
    d_state, count, parts = A.shape[0], length // tokens, width // channels
    at = _Specs(tokens, channels, d_state, lambda c: count - 1 - c)
    across = [] if keep is None else [_across(keep[..., None], count, d_state)]
    shared = jax.ShapeDtypeStruct((rows, parts, count, d_state, tokens), x.dtype)
    dx, ddt, dA, dh, dB, dC = pl.pallas_call(
        functools.partial(_backward, tokens, count, bool(across)),
        grid=(rows, parts, count),
        in_specs=[at.time, at.time, at.time, at.fixed, at.row, at.bound, at.token, at.token]
        + [at.token] * bool(across),
        out_specs=[at.time, at.time, at.row, at.row, at.shared, at.shared],
        out_shape=[like(x), like(x), like(g), like(g), shared, shared],
        scratch_shapes=[
            pltpu.VMEM((tokens, d_state, channels), x.dtype),
            pltpu.VMEM((d_state, channels), x.dtype),
            pltpu.VMEM((d_state, channels), x.dtype),
        ],
        compiler_params=_params(),
        interpret=interpret,
        name="selective_scan_backward",
    )(x, dt, dy, A, g, bounds, _across(B, count), _across(C, count), *across)

    def along(parts: Array) -> Array:
        return jnp.moveaxis(parts.sum(axis=1), 2, 3).reshape(rows, length, d_state)

    return dx, ddt, dA.sum(axis=0), along(dB), along(dC), dh


class _Specs:
    """Which block of each kind of array a program sees; ``when`` gives the chunk."""

    def __init__(self, tokens: int, channels: int, d_state: int, when: Callable[[Any], Any]):
        state = (d_state, channels)
        self.time = pl.BlockSpec((None, tokens, channels), lambda b, e, c: (b, when(c), e))
        self.fixed = pl.BlockSpec(state, lambda b, e, c: (0, e))
        self.row = pl.BlockSpec((None, *state), lambda b, e, c: (b, 0, e))
        self.bound = pl.BlockSpec((None, None, *state), lambda b, e, c: (b, when(c), 0, e))
        self.token = pl.BlockSpec((None, None, d_state, tokens), lambda b, e, c: (b, when(c), 0, 0))
        self.shared = pl.BlockSpec(
            (None, None, None, d_state, tokens), lambda b, e, c: (b, e, when(c), 0, 0)
        )


def _params() -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def _across(v: Array, count: int, states: int | None = None) -> Array:
    """(B, T, N) to (B, count, N, tokens); a single column is repeated for so many states."""
    rows, length, size = v.shape
    v = jnp.swapaxes(v.reshape(rows, count, length // count, size), 2, 3)
    return v if states is None else jnp.broadcast_to(v, (*v.shape[:2], states, v.shape[3]))


class _Eight:
    """Eight tokens, from the aligned token ``first`` on: their rows and columns."""

    def __init__(self, first: Any, channels: int, across: tuple[int, int]):
        self.rows = pl.ds(first, SUBLANES)
        self.first = first
        self.number = jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, channels), 0)
        self.lane = jax.lax.broadcasted_iota(jnp.int32, across, 1)

    def column(self, v: Array, j: int) -> Array:
        """Token j's column (N, 1) of (N, tokens)."""
        here = jnp.where(self.lane == self.first + j, v, jnp.zeros_like(v))
        return jnp.sum(here, axis=1, keepdims=True)

    def put_column(self, v: Array, j: int, column: Array) -> Array:
        """``v`` (N, tokens) with token j's column."""
        return jnp.where(self.lane == self.first + j, column, v)

    def put_row(self, v: Array, j: int, row: Array) -> Array:
        """``v`` (8, channels) with row j."""
        return jnp.where(self.number == j, row, v)


def _forward(count: int, starts: bool, save: bool, *refs: Ref) -> None:
    x_ref, dt_ref, A_ref, first_ref, B_ref, C_ref, *refs_ = refs
    keep_ref = refs_.pop(0) if starts else None
    y_ref, last_ref, *bound_ref, h_ref = refs_
    chunk = pl.program_id(2)

    @pl.when(chunk == 0)
    def _() -> None:
        h_ref[...] = first_ref[...]

    if save:
        bound_ref[0][...] = h_ref[...]
    A, B, C = A_ref[...], B_ref[...], C_ref[...]
    keep = None if keep_ref is None else keep_ref[...]
    tokens, channels = x_ref.shape

    def eight(i: Array, h: Array) -> Array:
        now = _Eight(pl.multiple_of(i * SUBLANES, SUBLANES), channels, B.shape)
        dt = dt_ref[now.rows, :]
        forced = dt * x_ref[now.rows, :]
        y = jnp.zeros_like(dt)
        for j in range(SUBLANES):
            h = _decay(j, dt, A) * _kept(now, j, keep, h) + now.column(B, j) * forced[j : j + 1]
            y = now.put_row(y, j, jnp.sum(h * now.column(C, j), axis=0, keepdims=True))
        y_ref[now.rows, :] = y
        return h

    h_ref[...] = jax.lax.fori_loop(0, tokens // SUBLANES, eight, h_ref[...])

    @pl.when(chunk == count - 1)
    def _() -> None:
        last_ref[...] = h_ref[...]


def _backward(tokens: int, count: int, starts: bool, *refs: Ref) -> None:
    x_ref, dt_ref, dy_ref, A_ref, last_ref, bound_ref, B_ref, C_ref, *refs_ = refs
    keep_ref = refs_.pop(0) if starts else None
    dx_ref, ddt_ref, dA_out, dh_out, dB_ref, dC_ref, before_ref, g_ref, dA_ref = refs_
    chunk = pl.program_id(2)

    @pl.when(chunk == 0)
    def _() -> None:
        g_ref[...] = last_ref[...]
        dA_ref[...] = jnp.zeros_like(dA_ref)

    A, B, C = A_ref[...], B_ref[...], C_ref[...]
    keep = None if keep_ref is None else keep_ref[...]
    channels, groups = x_ref.shape[1], tokens // SUBLANES

    def recompute(i: Array, h: Array) -> Array:
        now = _Eight(pl.multiple_of(i * SUBLANES, SUBLANES), channels, B.shape)
        dt = dt_ref[now.rows, :]
        forced = dt * x_ref[now.rows, :]
        for j in range(SUBLANES):
            before_ref[now.first + j] = h
            h = _decay(j, dt, A) * _kept(now, j, keep, h) + now.column(B, j) * forced[j : j + 1]
        return h

    jax.lax.fori_loop(0, groups, recompute, bound_ref[...])

    def adjoint(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        g, dA, dB, dC = carry
        now = _Eight(pl.multiple_of((groups - 1 - i) * SUBLANES, SUBLANES), channels, B.shape)
        dt, x, dy = dt_ref[now.rows, :], x_ref[now.rows, :], dy_ref[now.rows, :]
        forced = dt * x
        dx, ddt = jnp.zeros_like(x), jnp.zeros_like(x)
        for j in reversed(range(SUBLANES)):
            row = slice(j, j + 1)
            B_now, decay = now.column(B, j), _decay(j, dt, A)
            before = _kept(now, j, keep, before_ref[now.first + j])
            h = decay * before + B_now * forced[row]
            dC = now.put_column(dC, j, jnp.sum(h * dy[row], axis=1, keepdims=True))
            g = g + now.column(C, j) * dy[row]
            dB = now.put_column(dB, j, jnp.sum(g * forced[row], axis=1, keepdims=True))
            d_forced = jnp.sum(g * B_now, axis=0, keepdims=True)
            g = _kept(now, j, keep, g * decay)
            d_log = g * before
            dx = now.put_row(dx, j, dt[row] * d_forced)
            d_step = x[row] * d_forced + jnp.sum(d_log * A, axis=0, keepdims=True)
            ddt = now.put_row(ddt, j, d_step)
            dA = dA + d_log * dt[row]
        dx_ref[now.rows, :] = dx
        ddt_ref[now.rows, :] = ddt
        return g, dA, dB, dC

    nothing = jnp.zeros_like(B)
    start = (g_ref[...], dA_ref[...], nothing, nothing)
    g_ref[...], dA_ref[...], dB_ref[...], dC_ref[...] = jax.lax.fori_loop(0, groups, adjoint, start)

    @pl.when(chunk == count - 1)
    def _() -> None:
        dA_out[...] = dA_ref[...]
        dh_out[...] = g_ref[...]


def _decay(j: int, dt: Array, A: Array) -> Array:
    """What token j leaves of the state before it."""
    return jnp.exp(dt[j : j + 1] * A)


def _kept(now: _Eight, j: int, keep: Array | None, x: Array) -> Array:
    """A state before token j or its derivative: nothing where the token starts a document."""
    return x if keep is None else jnp.where(now.column(keep, j) > 0, x, jnp.zeros_like(x))
