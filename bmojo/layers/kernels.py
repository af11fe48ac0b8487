"""Operations that a kernel may compute, on one device or on each device of a mesh.

XLA cannot cut a kernel: where axes of arrays are cut by rules (:mod:`bmojo.layers.axes`), every
device runs the kernel on its own part, inside ``jax.shard_map``.
"""

import functools
from collections.abc import Callable
from typing import Any

from bmojo.layers.axes import on_each_device
from bmojo.layers.sight import Gathered, Sight
from bmojo.ops import ssd as mamba2
from bmojo.ops.attention import Slots
from bmojo.ops.attention_choice import choose, choose_causal
from bmojo.ops.blocked_attention import causal_attention
from bmojo.ops.native import attention as native
from bmojo.ops.recurrence import resolve, selective_scan
from bmojo.types import Array, Bool, Float, Int

KEYS = ("batch", None, "kv_heads", None)
# Query heads are cut as the key-value heads are, so that a device holds whole groups.
QUERIES = KEYS


def attend(
    q: Float[Array, "B L H P"], sight: Sight | Gathered, implementation: str = "auto"
) -> Float[Array, "B L H P"]:
    """Attention of every query to what it may look at.

    Args:
      q: queries.
      sight: what they may look at.
      implementation: see :mod:`bmojo.ops.attention_choice`.
    """
    if isinstance(sight, Gathered):
        choose(q, None, 0, implementation)
        return sight.attend(q)
    slots = sight.slots
    chosen = choose(q, sight.window, 0 if slots is None else slots.k.shape[2], implementation)
    if chosen == "xla":
        return sight.attend(q)
    if chosen == "native":
        memory_attention = native.memory_attention
    else:
        from bmojo.ops.pallas import attention as pallas

        memory_attention = pallas.memory_attention

    named: dict[str, tuple[Array | None, tuple[str | None, ...]]] = {
        "q": (q, QUERIES),
        "k": (sight.new.k, KEYS),
        "v": (sight.new.v, KEYS),
        "tail_k": (sight.tail.k, KEYS),
        "tail_v": (sight.tail.v, KEYS),
        "segment_pos": (sight.segment_pos, ("batch", None)),
        "offset": (sight.offset, ("batch",)),
    }
    if slots is not None:
        slots_kv = ("batch", None, None, "kv_heads", None)
        named["slot_k"] = (slots.k, slots_kv)
        named["slot_v"] = (slots.v, slots_kv)
        named["slot_distance"] = (slots.distance, ("batch", None, None))
    there = {name: pair for name, pair in named.items() if pair[0] is not None}

    def run(*arrays: Array) -> Array:
        held: dict[str, Any] = dict(zip(there, arrays, strict=True))
        mine = None
        if slots is not None:
            mine = Slots(held.pop("slot_k"), held.pop("slot_v"), held.pop("slot_distance"))
        return memory_attention(
            **held, slots=mine, window=sight.window, slot_range=sight.slot_range
        )

    each = on_each_device(run, [names for _, names in there.values()], QUERIES)
    return each(*(array for array, _ in there.values()))


def attend_causally(
    q: Float[Array, "B L H P"],
    k: Float[Array, "B S G P"],
    v: Float[Array, "B S G P"],
    segment_pos: Int[Array, "B L"],
    implementation: str = "auto",
    position: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L H P"]:
    """Attention over the whole past.

    Args:
      q: queries.
      k: keys; key s stands at position s of its row.
      v: their values.
      segment_pos: tokens of the same document before each token.
      implementation: see :mod:`bmojo.ops.attention_choice`.
      position: of each query in its row; None: the keys are those of the queries' tokens.
    """
    chosen = choose_causal(q, implementation, first=position is None)
    if chosen == "xla":
        return causal_attention(q, k, v, segment_pos, position)
    names: list[tuple[str | None, ...]] = [QUERIES, KEYS, KEYS, ("batch", None)]
    attention: Callable[..., Array] = native.causal_attention
    if chosen != "native":
        from bmojo.ops.pallas import causal

        attention = causal.causal_attention
    if position is None:
        return on_each_device(attention, names, QUERIES)(q, k, v, segment_pos)
    return on_each_device(attention, [*names, names[-1]], QUERIES)(q, k, v, segment_pos, position)


def scan(
    x: Float[Array, "B L E"],
    dt: Float[Array, "B L E"],
    A: Float[Array, "E N"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B E N"],
    start: Bool[Array, "B L"] | None = None,
    implementation: str = "auto",
) -> tuple[Float[Array, "B L E"], Float[Array, "B E N"]]:
    """:func:`bmojo.ops.recurrence.selective_scan`."""
    run = functools.partial(selective_scan, implementation=implementation)
    operands = [x, dt, A, B, C, state] + ([] if start is None else [start])
    if resolve(implementation) not in ("native", "pallas"):
        return run(*operands)
    channels, states, last = (
        ("batch", None, "inner"),
        ("batch", None, None),
        ("batch", "inner", None),
    )
    names = [channels, channels, ("inner", None), states, states, last, ("batch", None)]
    each = on_each_device(run, names[: len(operands)], (channels, last))
    return each(*operands)


def ssd(
    x: Float[Array, "B L H P"],
    dt: Float[Array, "B L H"],
    A: Float[Array, "H"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    state: Float[Array, "B H P N"],
    start: Bool[Array, "B L"] | None = None,
    chunk_size: int = mamba2.CHUNK_SIZE,
    implementation: str = "auto",
) -> tuple[Float[Array, "B L H P"], Float[Array, "B H P N"]]:
    """:func:`bmojo.ops.ssd.ssd`."""
    run = functools.partial(mamba2.ssd, chunk_size=chunk_size, implementation=implementation)
    operands = [x, dt, A, B, C, state] + ([] if start is None else [start])
    if mamba2.resolve(implementation) != "native":
        return run(*operands)
    inputs, states, last = (
        ("batch", None, "heads", None),
        ("batch", None, None),
        ("batch", "heads", None, None),
    )
    names = [inputs, ("batch", None, "heads"), ("heads",), states, states, last, ("batch", None)]
    each = on_each_device(run, names[: len(operands)], (inputs, last))
    return each(*operands)
