"""The three forms of a B'MOJO layer: what each query may look at, and when memory is renewed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.layers.heads import KeyValues
from bmojo.layers.memory import BMojoState, next_tails, pick, recall, remember
from bmojo.layers.sight import Gathered, Sight
from bmojo.layers.time_sharding import TimeContext
from bmojo.ops.attention import EIDETIC, FADING, NEVER, WINDOW, Slots, View, visible
from bmojo.ops.eidetic import EMPTY, running_sets
from bmojo.ops.positions import TokenPositions
from bmojo.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Call:
    """Some tokens in a layer, up to the choice of what their queries look at.

    Attributes:
      window: W.
      num_fading: m_f.
      num_eidetic: m_e.
      context: where the tokens before are.
      before: the state that they left; ``slots`` and ``faded`` are those before the tokens of
        all devices.
      span: where the tokens are.
      offset: tokens of the current chunk that precede them, per row; None: zero.
      lengths: valid tokens of each row; None: all.
      new: keys and values of the tokens.
      y: SSM outputs.
      project: gives keys and values of SSM outputs.
      score: innovation of the tokens; None without eidetic slots.
    """

    window: int
    num_fading: int
    num_eidetic: int
    context: TimeContext
    before: BMojoState
    span: TokenPositions
    offset: Int[Array, "B"] | None
    lengths: Int[Array, "B"] | None
    new: KeyValues
    y: Float[Array, "B L D"]
    project: Callable[[Array], KeyValues]
    score: Float[Array, "B L"] | None


def chunked(call: Call) -> tuple[Sight, dict[str, Any]]:
    """Slots frozen at the edges of the grid (section 3.2 of the paper).

    Raises:
      ValueError: a device's tokens are not whole chunks.
    """
    window, length, offset, span = call.window, call.y.shape[1], call.offset, call.span
    parts: list[Slots] = []
    memory: dict[str, Any] = {}
    if call.num_fading:
        parts.append(_fading_slots(call))
    if call.num_eidetic:
        slots, memory["eidetic"] = _eidetic_slots(call)
        parts.append(slots)
    sight = Sight(window, call.new, call.before.window, span.segment_pos)
    chunks = -(-length // window)
    touched = chunks if offset is None or length == 1 else chunks + 1
    stored = Slots(*(_for_each(touched, x) for x in call.before.stored))
    if not parts:
        if stored.k.shape[2]:
            sight = dataclasses.replace(sight, slots=stored, offset=offset)
        return sight, memory
    if call.context.size > 1 and length % window:
        raise ValueError(
            f"window: the {length} tokens of a device are no multiple of window = {window}; cut "
            f"the sequence into a multiple of {call.context.size} x {window} tokens, or over fewer "
            "devices"
        )
    edges = Slots(*(jnp.concatenate(x, axis=2) for x in zip(*parts, strict=True)))
    # What the first chunk sees was frozen at the last edge before.
    entry = call.context.tail(Slots(*(x[:, None] for x in call.before.slots)), edges)
    frozen = Slots(*(jnp.concatenate(x, axis=1) for x in zip(entry, edges, strict=True)))
    shown = (
        jnp.concatenate([x[:, :touched], more.astype(x.dtype)], axis=2)
        for x, more in zip(frozen, stored, strict=True)
    )
    sight = dataclasses.replace(
        sight,
        slots=Slots(*shown),
        offset=offset,
        num_fading=call.num_fading,
    )
    reached = (span.lengths if offset is None else span.lengths + offset) // window
    memory["slots"] = Slots(*(pick(x, reached[:, None])[:, 0] for x in frozen))
    return sight, memory


def _for_each(chunks: int, x: Array) -> Array:
    """The same slots for every chunk."""
    return jnp.broadcast_to(x[:, None], (x.shape[0], chunks, *x.shape[1:]))


def _fading_slots(call: Call) -> Slots:
    """The last m_f SSM outputs at each edge that the call may reach."""
    window, count, y = call.window, call.num_fading, call.y
    rows, length, width = y.shape
    chunks = -(-length // window)
    if call.offset is None:
        y = jnp.pad(y, [(0, 0), (0, chunks * window - length), (0, 0)])
        held = y.reshape(rows, chunks, window, width)[:, :, window - count :]
    else:
        outputs = call.before.outputs
        past = jnp.concatenate([outputs[:, outputs.shape[1] - count :], y], axis=1)
        edge = jnp.arange(1, chunks + 1, dtype=jnp.int32) * window - call.offset[:, None]
        index = edge[..., None] + jnp.arange(count, dtype=jnp.int32)
        index = jnp.minimum(index, past.shape[1] - 1).reshape(rows, chunks * count)
        held = pick(past, index)
        held = held.reshape(rows, chunks, count, width)
    made = call.project(held)
    distance = jnp.arange(count, 0, -1, dtype=jnp.int32)
    return Slots(made.k, made.v, jnp.broadcast_to(distance, (rows, chunks, count)))


def _eidetic_slots(call: Call) -> tuple[Slots, Any]:
    """The m_e most surprising tokens at each edge, and the running set after the call."""
    assert call.score is not None
    window, span, old = call.window, call.span, call.before.eidetic
    edges, final = running_sets(call.score, old.score, window, call.offset, span.start, span.valid)
    kept, position = recall(edges, call.new, old, span.position)
    first = span.position[:, 0] // window
    edge = (first[:, None] + jnp.arange(1, position.shape[1] + 1, dtype=jnp.int32)) * window
    distance = jnp.where(edges.score == EMPTY, NEVER, edge[..., None] - position)
    return Slots(kept.k, kept.v, distance), remember(final, call.new, old, span.position)


def sliding(call: Call) -> tuple[Sight, dict[str, Any]]:
    """Query i sees tokens [i-W+1, i] and SSM outputs [i-2W+1, i-W] (the authors' code)."""
    window, (rows, length) = call.window, call.y.shape[:2]
    faded = call.project(call.y)
    before = call.context.tail(call.before.faded, faded)
    chunks = -(-length // window)

    def two_chunks_back(tail: Array, x: Array) -> Array:
        past = jnp.pad(jnp.concatenate([tail, x], axis=1), [(0, 0), (1, 0), (0, 0), (0, 0)])
        past = past[:, : (chunks + 1) * window].reshape(rows, chunks + 1, window, *x.shape[2:])
        return jnp.concatenate([past[:, :-1], past[:, 1:]], axis=2)

    held = jax.tree.map(two_chunks_back, before, faded)
    distance = jnp.arange(2 * window, 0, -1, dtype=jnp.int32)
    slots = Slots(held.k, held.v, jnp.broadcast_to(distance, (rows, chunks, 2 * window)))
    sight = Sight(
        window,
        call.new,
        call.before.window,
        call.span.segment_pos,
        slots=slots,
        slot_range=(window, 2 * window),
        num_fading=2 * window,
    )
    return sight, {"faded": next_tails(before, faded, call.lengths)}


def token(call: Call) -> tuple[Gathered, dict[str, Any]]:
    """Algorithm 1: query t sees the set M_t, the SSM output y_{t-W} and its window."""
    window, (rows, length), span = call.window, call.y.shape[:2], call.span
    index = jnp.arange(length)[:, None] + jnp.arange(window)
    past = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), call.before.window, call.new)
    parts = [jax.tree.map(lambda x: x[:, index], past)]
    back = jnp.arange(window - 1, -1, -1, dtype=jnp.int32)
    distances = [jnp.broadcast_to(back, (rows, length, window))]
    tiers = [WINDOW] * window
    memory: dict[str, Any] = {}
    if call.num_fading:
        faded = call.project(call.y)
        before = call.context.tail(call.before.faded, faded)
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), before, faded)
        parts.append(jax.tree.map(lambda x: x[:, :length, None], both))
        distances.append(jnp.full((rows, length, 1), window, jnp.int32))
        tiers.append(FADING)
        memory["faded"] = next_tails(before, faded, call.lengths)
    if call.num_eidetic:
        assert call.score is not None
        old = call.before.eidetic
        sets, final = running_sets(call.score, old.score, 1, None, span.start, span.valid)
        kept, position = recall(sets, call.new, old, span.position)
        parts.append(kept)
        distance = span.position[..., None] - position
        distances.append(jnp.where(sets.score == EMPTY, NEVER, distance))
        tiers += [EIDETIC] * call.num_eidetic
        memory["eidetic"] = remember(final, call.new, old, span.position)
    held = jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), *parts)
    far = jnp.concatenate(distances, axis=2)[:, :, None]
    mask = visible(far, span.segment_pos[..., None, None])
    return Gathered(View(held.k, held.v, mask, far, np.array(tiers))), memory


Form = Callable[[Call], tuple[Sight | Gathered, dict[str, Any]]]

FORMS: dict[str, Form] = {"chunked": chunked, "sliding": sliding, "token": token}
"""By name of the form."""
