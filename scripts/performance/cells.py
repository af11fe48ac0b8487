"""The fading cells of a B'MOJO layer, step by step."""

from typing import Any

import jax
import jax.numpy as jnp

from bmojo.layers.projection import project
from bmojo.layers.selective_ssm import SelectiveSSM
from bmojo.layers.ssd import SSD
from bmojo.ops.channels import scale
from bmojo.ops.recurrence import selective_scan
from bmojo.ops.ssd import ssd
from bmojo.ops.time_sharding import open_context
from bmojo.types import Array
from scripts.performance import steps
from scripts.performance.steps import CELL, GATES, NORM, SILU, SOFTPLUS, Run, linear


def mamba(run: Run, cell: SelectiveSSM, u: Array) -> Array:
    """:class:`SelectiveSSM` of whole sequences."""
    rows, length, _ = u.shape
    tokens, inner = rows * length, cell.d_inner
    channels, states = tokens * inner, cell.config.d_state

    x, z = _entered(run, cell, u, (inner,), ("inner", "inner"))
    x = _convolved(run, cell, x)

    def small(linears: Any, x: Array) -> tuple[Array, ...]:
        edges = [cell.dt_rank, cell.dt_rank + states]
        dt, B, C = jnp.split(linears[0](x), edges, axis=-1)
        return linears[1](dt), B, C

    pair = (cell.x_proj, cell.dt_proj)
    dt, B, C = run(CELL, linear(*pair, tokens=tokens), small, pair, x)

    add = lambda _, dt, bias: jax.nn.softplus(dt + bias)  # noqa: E731
    dt = run(GATES, channels * (SOFTPLUS + 1.0), add, (), dt, cell.dt_bias[...])
    hidden, implementation = cell.init_state(rows).hidden, cell.config.implementation

    def scan(_: Any, x: Array, dt: Array, A_log: Array, B: Array, C: Array) -> Array:
        return selective_scan(x, dt, -jnp.exp(A_log), B, C, hidden, None, implementation)[0]

    y = run(steps.SCAN, channels * (7.0 * states + 1), scan, (), x, dt, cell.A_log[...], B, C)

    gate = lambda _, y, x, z, D: (y + scale(x, D)) * jax.nn.silu(z)  # noqa: E731
    y = run(GATES, float(channels * (SILU + 3)), gate, (), y, x, z, cell.D[...])
    return _leave(run, cell, y)


def mamba2(run: Run, cell: SSD, u: Array) -> Array:
    """:class:`SSD` of whole sequences."""
    rows, length, _ = u.shape
    tokens, width, heads = rows * length, cell.d_inner, cell.config.n_heads
    states, size = cell.config.d_state, cell.config.chunk_size
    edges = (width, width + 2 * states)
    z, both, dt = _entered(run, cell, u, edges, ("inner", None, "heads"))
    both = _convolved(run, cell, both)

    def sizes(_: Any, both: Array, dt: Array, bias: Array) -> tuple[Array, ...]:
        x, B, C = jnp.split(both, [width, width + states], axis=-1)
        x = x.reshape(rows, length, heads, width // heads)
        return x, B, C, jax.nn.softplus(dt + bias)

    x, B, C, dt = run(
        GATES, float(tokens * heads * (SOFTPLUS + 1)), sizes, (), both, dt, cell.dt_bias[...]
    )
    hidden, implementation = cell.init_state(rows).hidden, cell.config.implementation

    def scan(_: Any, x: Array, dt: Array, A_log: Array, B: Array, C: Array) -> Array:
        return ssd(x, dt, -jnp.exp(A_log), B, C, hidden, None, size, implementation)[0]

    chunk = min(length, size)
    flops = float(tokens * (2 * chunk * (states + width) + 4 * states * width))
    y = run(steps.SCAN, flops, scan, (), x, dt, cell.A_log[...], B, C)

    def gate(norm: Any, y: Array, x: Array, z: Array, D: Array) -> Array:
        skip = jnp.repeat(D, width // heads)
        return norm((y.reshape(z.shape) + scale(x.reshape(z.shape), skip)) * jax.nn.silu(z))

    y = run(GATES, tokens * width * (SILU + 3.0 + NORM), gate, cell.norm, y, x, z, cell.D[...])
    return _leave(run, cell, y)


def _entered(run: Run, cell: SelectiveSSM | SSD, u: Array, edges: Any, axes: Any) -> Any:
    enter = lambda linear, u: project(linear, u, edges, axes)  # noqa: E731
    return run(CELL, linear(cell.in_proj, tokens=u.size // u.shape[2]), enter, cell.in_proj, u)


def _convolved(run: Run, cell: SelectiveSSM | SSD, x: Array) -> Array:
    tail = cell.conv.init_tail(x.shape[0])
    context, _, tokens, _ = open_context(cell.init_state, None, x, None, None)
    flops = float(x.size * (2 * cell.config.d_conv + 1 + SILU))
    convolve = lambda conv, x: conv(x, tail, tokens, None, context)[0]  # noqa: E731
    return run(steps.CONVOLUTION, flops, convolve, cell.conv, x)


def _leave(run: Run, cell: SelectiveSSM | SSD, y: Array) -> Array:
    flops = linear(cell.out_proj, tokens=y.shape[0] * y.shape[1])
    return run(CELL, flops, lambda project, y: project(y), cell.out_proj, y)
