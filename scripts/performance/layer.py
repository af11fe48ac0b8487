"""One B'MOJO layer, B'MOJO and MLP, as a sequence of its parts.

:func:`layer` does what the layer does, but hands every step to a function ``run``, which may
simply call it, inside a larger program, or compile and time it by itself. Steps of one part are
summed up under its name.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from bmojo.layers.forms import Call, chunked
from bmojo.layers.sight import Sight
from flax import nnx

from bmojo.layers import kernels
from bmojo.layers.bmojo import BMojo
from bmojo.layers.heads import KeyValues
from bmojo.layers.projection import project
from bmojo.layers.selective_ssm import SelectiveSSM
from bmojo.layers.ssd import SSD
from bmojo.model import Period
from bmojo.ops.channels import scale
from bmojo.ops.innovation import innovation, predictor, residual
from bmojo.ops.masks import Slots
from bmojo.ops.ssd import ssd
from bmojo.ops.time_sharding import UNSHARDED
from bmojo.types import Array

__all__ = ["PARTS", "Run", "call", "layer"]

NORMS = "norms and residual sums"
ATTENTION = "projections of attention"
MEMORY = "memory attention"
SELECTION = "innovation and selection"
CELL = "fading cell: projections"
CONVOLUTION = "fading cell: convolution"
SCAN = "fading cell: scan"
GATES = "fading cell: gates and steps"
MLP_PART = "MLP"
PARTS = (NORMS, CELL, CONVOLUTION, SCAN, GATES, ATTENTION, SELECTION, MEMORY, MLP_PART)

SILU, SOFTPLUS = 4, 3
"""Operations of a silu and of a softplus: an exponential, a logarithm, a quotient count one."""
NORM = 4
"""Operations of an RMS norm for each number."""

Run = Callable[..., Any]
"""run(part, flops, function, modules, *arrays) -> function(modules, *arrays)."""


def call(part: str, flops: float, function: Callable[..., Any], modules: Any, *arrays: Any) -> Any:
    """The ``run`` that does nothing but the step."""
    del part, flops
    return function(modules, *arrays)


def layer(run: Run, period: Period, x: Array) -> Array:
    """The outputs of a layer for whole sequences (B, L, D), step by step.

    Args:
      run: what is done with each step: called with the name of its part, its forward operations
        by formula, a function, the modules that it uses and its arrays.
      period: B'MOJO in chunks, with tied projections and tokens made by the cell, and an MLP.
      x: the residual stream.

    Raises:
      ValueError: the period is another one.
    """
    first, second = period.sublayers
    mixer = first.mixer
    _check(mixer)
    norm_flops = float(x.size * (NORM + 1))
    u = run(NORMS, norm_flops - x.size, lambda norm, x: norm(x), first.norm, x)
    y = (_mamba if isinstance(mixer.fading, SelectiveSSM) else _mamba2)(run, mixer.fading, u)
    x = _plus(run, x, _look(run, mixer, u, y))
    u = run(NORMS, norm_flops - x.size, lambda norm, x: norm(x), second.norm, x)
    mlp = second.mixer
    tokens = u.shape[0] * u.shape[1]
    flops = tokens * (mlp.flops_per_token(u.shape[1]) + (SILU + 1) * mlp.d_ff)
    return _plus(run, x, run(MLP_PART, flops, lambda mlp, u: mlp(u)[0], mlp, u))


def _check(mixer: Any) -> None:
    if not isinstance(mixer, BMojo) or not isinstance(mixer.fading, SelectiveSSM | SSD):
        raise ValueError(
            "pattern: the first mixer must be B'MOJO with the cell of Mamba or Mamba-2"
        )
    wanted = {"form": "chunked", "tokens": "ssm", "read_fading": True, "tie_projections": True}
    for name, value in wanted.items():
        if getattr(mixer.config, name) != value:
            raise ValueError(f"{name}: must be {value!r} here; leave it at its default")
    if not mixer.config.num_eidetic or mixer.config.normalize_innovation:
        raise ValueError("num_eidetic: must be at least 1, without normalize_innovation")


def _plus(run: Run, x: Array, out: Array) -> Array:
    return run(NORMS, float(x.size), lambda _, x, out: x + out, (), x, out)


def _linear(*linears: nnx.Linear, tokens: int) -> float:
    """Operations of some projections."""
    return 2.0 * tokens * sum(linear.in_features * linear.out_features for linear in linears)


def _mamba(run: Run, cell: SelectiveSSM, u: Array) -> Array:
    """:class:`SelectiveSSM` of whole sequences."""
    rows, length, _ = u.shape
    tokens, inner = rows * length, cell.d_inner
    channels, states = tokens * inner, cell.config.d_state

    def enter(linear: nnx.Linear, u: Array) -> tuple[Array, ...]:
        return project(linear, u, (inner,), ("inner", "inner"))

    x, z = run(CELL, _linear(cell.in_proj, tokens=tokens), enter, cell.in_proj, u)
    x = _convolved(run, cell, x)

    def small(linears: Sequence[nnx.Linear], x: Array) -> tuple[Array, ...]:
        edges = [cell.dt_rank, cell.dt_rank + states]
        dt, B, C = jnp.split(linears[0](x), edges, axis=-1)
        return linears[1](dt), B, C

    pair = (cell.x_proj, cell.dt_proj)
    dt, B, C = run(CELL, _linear(*pair, tokens=tokens), small, pair, x)

    def steps(_: Any, dt: Array, bias: Array) -> Array:
        return jax.nn.softplus(dt + bias)

    dt = run(GATES, float(channels * (SOFTPLUS + 1)), steps, (), dt, cell.dt_bias[...])
    hidden = cell.init_state(rows).hidden

    def scan(_: Any, x: Array, dt: Array, A_log: Array, B: Array, C: Array) -> Array:
        A = -jnp.exp(A_log)
        return kernels.scan(x, dt, A, B, C, hidden, None, cell.config.implementation)[0]

    flops = float(channels * (7 * states + 1))
    y = run(SCAN, flops, scan, (), x, dt, cell.A_log[...], B, C)

    def gate(_: Any, y: Array, x: Array, z: Array, D: Array) -> Array:
        return (y + scale(x, D)) * jax.nn.silu(z)

    y = run(GATES, float(channels * (SILU + 3)), gate, (), y, x, z, cell.D[...])
    return _leave(run, cell, y)


def _mamba2(run: Run, cell: SSD, u: Array) -> Array:
    """:class:`SSD` of whole sequences."""
    rows, length, _ = u.shape
    tokens, width, heads = rows * length, cell.d_inner, cell.config.n_heads
    states, size = cell.config.d_state, cell.config.chunk_size

    def enter(linear: nnx.Linear, u: Array) -> tuple[Array, ...]:
        return project(linear, u, (width, width + 2 * states), ("inner", None, "heads"))

    z, both, dt = run(CELL, _linear(cell.in_proj, tokens=tokens), enter, cell.in_proj, u)
    both = _convolved(run, cell, both)

    def steps(_: Any, both: Array, dt: Array, bias: Array) -> tuple[Array, ...]:
        x, B, C = jnp.split(both, [width, width + states], axis=-1)
        x = x.reshape(rows, length, heads, width // heads)
        return x, B, C, jax.nn.softplus(dt + bias)

    flops = float(tokens * heads * (SOFTPLUS + 1))
    x, B, C, dt = run(GATES, flops, steps, (), both, dt, cell.dt_bias[...])
    hidden = cell.init_state(rows).hidden

    def scan(_: Any, x: Array, dt: Array, A_log: Array, B: Array, C: Array) -> Array:
        return ssd(x, dt, -jnp.exp(A_log), B, C, hidden, None, size, cell.config.implementation)[0]

    chunk = min(length, size)
    flops = float(tokens * (2 * chunk * (states + width) + 4 * states * width))
    y = run(SCAN, flops, scan, (), x, dt, cell.A_log[...], B, C)

    def gate(norm: Any, y: Array, x: Array, z: Array, D: Array) -> Array:
        skip = jnp.repeat(D, width // heads)
        return norm((y.reshape(z.shape) + scale(x.reshape(z.shape), skip)) * jax.nn.silu(z))

    flops = float(tokens * width * (SILU + 3 + NORM))
    y = run(GATES, flops, gate, cell.norm, y, x, z, cell.D[...])
    return _leave(run, cell, y)


def _convolved(run: Run, cell: SelectiveSSM | SSD, x: Array) -> Array:
    tail = cell.conv.init_tail(x.shape[0])
    flops = float(x.size * (2 * cell.config.d_conv + 1 + SILU))
    return run(CONVOLUTION, flops, lambda conv, x: jax.nn.silu(conv(x, tail, None)), cell.conv, x)


def _leave(run: Run, cell: SelectiveSSM | SSD, y: Array) -> Array:
    flops = _linear(cell.out_proj, tokens=y.shape[0] * y.shape[1])
    return run(CELL, flops, lambda linear, y: linear(y), cell.out_proj, y)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Projected:
    """Queries, and keys and values, of tokens."""

    q: Array
    k: Array
    v: Array


def _look(run: Run, mixer: BMojo, u: Array, y: Array) -> Array:
    """Attention to window and memory, and the SSM's output on top."""
    config, heads = mixer.config, mixer.heads
    (rows, length, width), window = u.shape, config.window
    tokens = rows * length
    pair = (heads.k_proj, heads.v_proj)
    three = (heads.q_proj, *pair)

    def enter(linears: Sequence[nnx.Linear], u: Array, y: Array) -> _Projected:
        q, k, v = linears[0](u), linears[1](u + y), linears[2](u + y)
        new = heads.cut_key_values(k, v)
        return _Projected(q.reshape(rows, length, heads.n_heads, heads.d_head), new.k, new.v)

    flops = _linear(*three, tokens=tokens) + u.size
    made = run(ATTENTION, flops, enter, three, u, y)
    state = mixer.init_state(rows)
    span, _ = UNSHARDED.advance(state.positions, length, None, None)

    def select(linears: Sequence[nnx.Linear], y: Array, k: Array, v: Array) -> Slots:
        tail, still = state.outputs, jax.lax.stop_gradient(y)
        score, _ = innovation(residual(still, tail, predictor(config.span), span.segment_pos))
        sight, _ = chunked(
            Call(
                window=window,
                num_fading=config.num_fading,
                num_eidetic=config.num_eidetic,
                context=UNSHARDED,
                before=state,
                span=span,
                offset=None,
                lengths=None,
                new=KeyValues(k, v),
                y=y,
                project=lambda y: heads.cut_key_values(linears[0](y), linears[1](y)),
                score=score,
            )
        )
        assert sight.slots is not None
        return sight.slots

    chunks = -(-length // window)
    faded = _linear(*pair, tokens=rows * chunks * config.num_fading)
    flops = faded + float(y.size * (2 * (config.span + 1) + 2))
    slots = run(SELECTION, flops, select, pair, y, made.k, made.v)

    def attend(_: Any, made: _Projected, slots: Slots) -> Array:
        new = KeyValues(made.k, made.v)
        sight = Sight(
            window, new, state.window, span.segment_pos, slots=slots, num_fading=config.num_fading
        )
        return kernels.attend(made.q, sight, config.attention_implementation)

    seen = rows * _seen(length, window, config.num_fading, config.num_eidetic)
    mixed = run(MEMORY, 4.0 * width * seen, attend, (), made, slots)

    def leave(linear: nnx.Linear, mixed: Array, y: Array) -> Array:
        return linear(mixed.reshape(rows, length, width)) + y

    flops = _linear(heads.o_proj, tokens=tokens) + u.size
    return run(ATTENTION, flops, leave, heads.o_proj, mixed, y)


def _seen(length: int, window: int, num_fading: int, num_eidetic: int) -> int:
    """Keys that all queries of a row see together."""
    before = range(0, length, window)
    slots = sum(
        min(window, length - edge) * ((num_fading if edge else 0) + min(num_eidetic, edge))
        for edge in before
    )
    return slots + sum(min(token + 1, window) for token in range(length))
