"""Eidetic and fading slots: the memory that each chunk of a B'MOJO layer sees."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bmojo.layers.heads import KeyValues
from bmojo.ops.masks import NEVER, Slots
from bmojo.ops.positions import TokenPositions
from bmojo.ops.selection import EMPTY, VACANT, InnovationSelection, Ranked, SelectionState
from bmojo.ops.time_sharding import TimeContext
from bmojo.types import Array, Float, Int

SLOT_AXES = (2, 2, 3)
"""The axes of slots in keys, values and distances (:class:`bmojo.ops.masks.Slots`)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EideticMemory:
    """The selected tokens of the current document so far.

    Attributes:
      chosen: their scores and positions, best first, and the state of the selection.
      kept: their keys and values, zeros where a slot is vacant.
    """

    chosen: SelectionState
    kept: KeyValues


def eidetic_slots(
    rule: InnovationSelection,
    memory: EideticMemory,
    score: Float[Array, "B L"],
    power: Float[Array, "B channels"],
    new: KeyValues,
    tokens: TokenPositions,
    window: int,
    offset: Int[Array, "B"] | None,
    context: TimeContext,
) -> tuple[Slots, EideticMemory]:
    """The slots frozen at each chunk edge that the call may reach, and the memory after the call.

    ``memory`` is that before the tokens of all devices, ``power`` the state of the rule after
    the call; ``offset`` counts tokens of the current chunk that precede the call (None: zero).
    """

    def own() -> tuple[Array, EideticMemory]:
        score_of_none = jnp.full_like(memory.chosen.score, EMPTY)
        nothing = dataclasses.replace(memory.chosen, score=score_of_none)
        _, final = rule.update(nothing, score, tokens, score.shape[1])
        anew = none if tokens.start is None else tokens.start.any(axis=1)
        kept, position = _gathered(final, memory.kept, new, nothing.position, tokens.position)
        return anew, EideticMemory(SelectionState(final.score, position, power), kept)

    # 1. The memory before this device's tokens, merged from the devices before.
    none = jnp.zeros(score.shape[:1], bool)
    _, before = context.scan(functools.partial(_merge, rule), (none, memory), own)

    # 2. The sets at the edges and after the call.
    edges, final = rule.update(before.chosen, score, tokens, window, offset)

    # 3. Their keys, values and positions; distances count back from the edge.
    held, position = _gathered(edges, before.kept, new, before.chosen.position, tokens.position)
    first = tokens.position[:, 0] // window
    edge = (first[:, None] + jnp.arange(1, position.shape[1] + 1, dtype=jnp.int32)) * window
    distance = jnp.where(position == VACANT, NEVER, edge[..., None, None] - position)
    kept, last = _gathered(final, before.kept, new, before.chosen.position, tokens.position)
    after = EideticMemory(SelectionState(final.score, last, power), kept)
    return Slots(held.k, held.v, distance), after


def _merge(
    rule: InnovationSelection, left: tuple[Array, EideticMemory], right: tuple[Array, EideticMemory]
) -> tuple[Array, EideticMemory]:
    """The best tokens of two memories, as pairs (a document started, memory of the last one)."""
    (reset_l, earlier), (reset_r, later) = left, right
    score = jnp.where(reset_r[:, None, None], EMPTY, earlier.chosen.score)
    sets = rule.merge(dataclasses.replace(earlier.chosen, score=score), later.chosen)
    positions = earlier.chosen.position, later.chosen.position
    kept, position = _gathered(sets, earlier.kept, later.kept, *positions)
    chosen = SelectionState(sets.score, position, later.chosen.power)
    return reset_l | reset_r, EideticMemory(chosen, kept)


def _gathered(
    sets: Ranked,
    kept: KeyValues,
    new: KeyValues,
    old_position: Int[Array, "B S M"],
    position: Int[Array, "B ..."],
) -> tuple[KeyValues, Int[Array, "B ..."]]:
    """Keys and values (B, ..., M, G, P) and positions (B, ..., S, M) of sets (B, ..., S, M).

    Sources count ``kept`` at ``old_position`` first, then ``new`` at ``position``, (B, L) or
    (B, S, L).
    """
    (rows, *more, heads, size), vacant = sets.source.shape, sets.score == EMPTY
    index = jnp.moveaxis(sets.source.reshape(rows, -1, heads, size), 2, 1)
    index = index.reshape(rows, heads, -1)

    held = []
    for old, x in ((kept.k, new.k), (kept.v, new.v)):
        both = jnp.concatenate([old, x.astype(old.dtype)], axis=1)
        if heads == 1:
            both = jnp.take_along_axis(both, index[:, 0, :, None, None], axis=1)
        else:
            both = jnp.take_along_axis(jnp.swapaxes(both, 1, 2), index[..., None], axis=2)
            both = jnp.swapaxes(both, 1, 2)
        both = both.reshape(rows, *more, size, *both.shape[2:])
        held.append(jnp.where(jnp.swapaxes(vacant, -1, -2)[..., None], 0, both))
    position = position.reshape(rows, -1, position.shape[-1])
    position = jnp.broadcast_to(position, (rows, heads, position.shape[-1]))
    every = jnp.concatenate([old_position, position], axis=2)
    places = jnp.take_along_axis(every, index, axis=2).reshape(rows, heads, -1, size)
    places = jnp.moveaxis(places, 1, 2).reshape(sets.source.shape)
    return KeyValues(*held), jnp.where(vacant, VACANT, places)


def fading_slots(
    outputs: Float[Array, "B T D"],
    y: Float[Array, "B L D"],
    count: int,
    window: int,
    offset: Int[Array, "B"] | None,
) -> tuple[Float[Array, "B C M D"], Int[Array, "B C 1 M"]]:
    """The last M = ``count`` outputs of the fading memory at each chunk edge, and distances.

    ``outputs`` are those before the call, at least ``count``; ``offset`` as above.
    """
    rows, length, width = y.shape
    chunks = -(-length // window)
    if offset is None:
        y = jnp.pad(y, [(0, 0), (0, chunks * window - length), (0, 0)])
        held = y.reshape(rows, chunks, window, width)[:, :, window - count :]
    else:
        past = jnp.concatenate([outputs[:, outputs.shape[1] - count :], y], axis=1)
        edge = jnp.arange(1, chunks + 1, dtype=jnp.int32) * window - offset[:, None]
        index = edge[..., None] + jnp.arange(count, dtype=jnp.int32)
        index = jnp.minimum(index, past.shape[1] - 1).reshape(rows, chunks * count, 1)
        held = jnp.take_along_axis(past, index, axis=1).reshape(rows, chunks, count, width)
    distance = jnp.arange(count, 0, -1, dtype=jnp.int32)
    return held, jnp.broadcast_to(distance, (rows, chunks, 1, count))


def freeze(
    entry: Slots,
    parts: Sequence[Slots],
    stored: Slots,
    tokens: TokenPositions,
    window: int,
    offset: Int[Array, "B"] | None,
    context: TimeContext,
) -> tuple[Slots | None, Slots]:
    """The slots that each chunk of the call sees, and those of the chunk that comes after it.

    None in place of the former if there are none. ``entry`` are slots (B, M, ...) frozen at the
    last edge before the tokens of all devices, ``parts`` those (B, C, M, ...) frozen at the edges
    of the call, by kind, ``stored`` further ones (B, M', ...) for every chunk.

    Raises:
      ValueError: a device's tokens are not whole chunks.
    """
    length = tokens.position.shape[1]
    chunks = -(-length // window)
    touched = chunks if offset is None or length == 1 else chunks + 1
    k, v, distance = (
        jnp.broadcast_to(x[:, None], (x.shape[0], touched, *x.shape[1:])) for x in stored
    )
    if not parts:
        return (Slots(k, v, distance) if k.shape[2] else None), entry
    if context.size > 1 and length % window:
        raise ValueError(
            f"window: the {length} tokens of a device are no multiple of window = {window}; cut "
            f"the sequence into a multiple of {context.size} x {window} tokens, or over fewer "
            "devices"
        )
    kinds = zip(*parts, strict=True)
    edges = Slots(*(jnp.concatenate(x, axis=a) for x, a in zip(kinds, SLOT_AXES, strict=True)))
    # 1. The first chunk sees the slots that were frozen before the call.
    first = context.tail(Slots(*(x[:, None] for x in entry)), edges)
    frozen = Slots(*(jnp.concatenate(x, axis=1) for x in zip(first, edges, strict=True)))
    # 2. Those of the chunks that the call touches, and the stored ones behind them.
    seen = Slots(*(x[:, :touched] for x in frozen))
    if k.shape[2]:
        heads = (*distance.shape[:2], seen.distance.shape[2], distance.shape[3])
        more = (k, v, jnp.broadcast_to(distance, heads))
        kinds = zip(seen, more, SLOT_AXES, strict=True)
        seen = Slots(*(jnp.concatenate([x, y.astype(x.dtype)], axis=a) for x, y, a in kinds))
    # 3. The last edge that each row has reached.
    reached = (tokens.lengths if offset is None else tokens.lengths + offset) // window
    index = reached.reshape(-1, 1, 1, 1)
    k, v = (jnp.take_along_axis(x, index[..., None], axis=1)[:, 0] for x in frozen[:2])
    return seen, Slots(k, v, jnp.take_along_axis(frozen.distance, index, axis=1)[:, 0])
