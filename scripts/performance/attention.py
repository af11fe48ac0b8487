"""The attention of a B'MOJO layer to window and memory, step by step.

The one script that follows the inside of the layer: steps 2 to 6 of :mod:`bmojo.layers.bmojo`.
"""

from typing import Any

from flax import nnx

from bmojo.layers.bmojo import BMojo
from bmojo.layers.eidetic_memory import eidetic_slots, fading_slots, freeze
from bmojo.layers.heads import KeyValues
from bmojo.ops.masks import Slots
from bmojo.ops.memory_attention import memory_attention
from bmojo.ops.time_sharding import open_context
from bmojo.types import Array
from scripts.performance.steps import ATTENTION, MEMORY, SELECTION, Run, linear


def attend(run: Run, mixer: BMojo, u: Array, y: Array) -> Array:
    """Attention to window and memory, and the SSM's output on top."""
    config, heads, rule = mixer.config, mixer.heads, mixer.rule
    (rows, length, width), window = u.shape, config.window
    tokens = rows * length
    pair = (heads.k_proj, heads.v_proj)
    three = (heads.q_proj, *pair)
    context, before, places, after = open_context(mixer.init_state, None, u, None, None)

    def cut(linear: nnx.Linear, x: Array, count: int) -> Array:
        return linear(x).reshape(*x.shape[:-1], count, heads.d_head)

    def key_values(linears: Any, x: Array) -> KeyValues:
        return KeyValues(*(cut(linear, x, heads.n_kv_heads) for linear in linears))

    def enter(linears: Any, u: Array, y: Array) -> tuple[Array, KeyValues]:
        return cut(linears[0], u, heads.n_heads), key_values(linears[1:], u + y)

    flops = linear(*three, tokens=tokens) + u.size
    q, new = run(ATTENTION, flops, enter, three, u, y)

    def select(linears: Any, y: Array, new: KeyValues) -> Slots:
        outputs = context.tail(before.outputs, y)
        memory, edges = before.eidetic, []
        seen = before.positions.segment_pos, after.segment_pos
        score, power = rule.score(memory.chosen, y, outputs, places, None, context, seen)
        if config.num_fading:
            held, distance = fading_slots(outputs, y, config.num_fading, window, None)
            faded = key_values(linears, held)
            edges.append(Slots(faded.k, faded.v, distance))
        given = (new, places, window, None, context)
        edges.append(eidetic_slots(rule, memory, score, power, *given)[0])
        slots, _ = freeze(before.slots, edges, before.stored, *given[1:])
        assert slots is not None
        return slots

    chunks = -(-length // window)
    faded = linear(*pair, tokens=rows * chunks * config.num_fading)
    flops = faded + float(y.size * (2 * (config.span + 1) + 2))
    slots = run(SELECTION, flops, select, pair, y, new)

    def look(_: Any, q: Array, new: KeyValues, slots: Slots) -> Array:
        tail, options = before.window, {"implementation": config.attention_implementation}
        operands = (q, new.k, new.v, tail.k, tail.v, places.segment_pos)
        return memory_attention(*operands, window=window, slots=slots, **options)

    seen = rows * _seen(length, window, config.num_fading, config.num_eidetic)
    mixed = run(MEMORY, 4.0 * width * seen, look, (), q, new, slots)

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
