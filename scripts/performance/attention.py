"""The attention of a B'MOJO layer to window and memory, step by step.

The one script that follows the inside of the layer: :mod:`bmojo.layers.forms` and ``masks``.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from bmojo.layers import kernels
from bmojo.layers.bmojo import BMojo
from bmojo.layers.forms import Call, chunked
from bmojo.layers.heads import KeyValues
from bmojo.layers.sight import Sight
from bmojo.layers.time_sharding import UNSHARDED
from bmojo.ops.attention import Slots
from bmojo.ops.innovation import innovation, predictor, residual
from bmojo.types import Array
from scripts.performance.steps import ATTENTION, MEMORY, SELECTION, Run, linear


def attend(run: Run, mixer: BMojo, u: Array, y: Array) -> Array:
    """Attention to window and memory, and the SSM's output on top."""
    config, heads = mixer.config, mixer.heads
    (rows, length, width), window = u.shape, config.window
    tokens = rows * length
    pair = (heads.k_proj, heads.v_proj)
    three = (heads.q_proj, *pair)

    def enter(linears: Sequence[nnx.Linear], u: Array, y: Array) -> tuple[Array, ...]:
        q, k, v = linears[0](u), linears[1](u + y), linears[2](u + y)
        new = heads.cut_key_values(k, v)
        return q.reshape(rows, length, heads.n_heads, heads.d_head), new.k, new.v

    flops = linear(*three, tokens=tokens) + u.size
    q, k, v = run(ATTENTION, flops, enter, three, u, y)
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
    faded = linear(*pair, tokens=rows * chunks * config.num_fading)
    flops = faded + float(y.size * (2 * (config.span + 1) + 2))
    slots = run(SELECTION, flops, select, pair, y, k, v)

    def look(_: Any, q: Array, k: Array, v: Array, slots: Slots) -> Array:
        new = KeyValues(k, v)
        sight = Sight(
            window, new, state.window, span.segment_pos, slots=slots, num_fading=config.num_fading
        )
        return kernels.attend(q, sight, config.attention_implementation)

    seen = rows * _seen(length, window, config.num_fading, config.num_eidetic)
    mixed = run(MEMORY, 4.0 * width * seen, look, (), q, k, v, slots)

    def leave(project: nnx.Linear, mixed: Array, y: Array) -> Array:
        return project(mixed.reshape(rows, length, width)) + y

    flops = linear(heads.o_proj, tokens=tokens) + u.size
    return run(ATTENTION, flops, leave, heads.o_proj, mixed, y)


def _seen(length: int, window: int, num_fading: int, num_eidetic: int) -> int:
    """Keys that all queries of a row see together."""
    before = range(0, length, window)
    slots = sum(
        min(window, length - edge) * ((num_fading if edge else 0) + min(num_eidetic, edge))
        for edge in before
    )
    return slots + sum(min(token + 1, window) for token in range(length))
