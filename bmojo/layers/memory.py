"""What a B'MOJO layer remembers between two calls."""

import dataclasses

import jax
import jax.numpy as jnp

from bmojo.layers.heads import KeyValues
from bmojo.layers.protocol import State
from bmojo.layers.time_sharding import TimeContext
from bmojo.ops.attention import Slots
from bmojo.ops.convolution import next_tail
from bmojo.ops.eidetic import EMPTY, Ranked, merge, running_sets
from bmojo.ops.positions import Positions, TokenPositions
from bmojo.types import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EideticSlots:
    """The most surprising tokens of the current document so far, best first.

    Attributes:
      kept: their keys and values.
      score: their innovation, ``EMPTY`` where the slot is vacant.
      position: where they stood in the row.
    """

    kept: KeyValues
    score: Float[Array, "... B M"]
    position: Int[Array, "... B M"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BMojoState:
    """All that the layer remembers; parts that a config does not use have size zero.

    Attributes:
      positions: position of each row.
      fading: state of the fading cell.
      inputs: the last inputs, for ``tokens='conv'``.
      outputs: the last SSM outputs, for the predictor and for fading slots to come.
      power: running sums of squared residuals, for ``normalize_innovation``.
      window: keys and values of the last W - 1 tokens.
      faded: keys and values of the last SSM outputs (sliding and token forms).
      slots: the frozen memory that the current chunk sees.
      eidetic: the running set that the next chunks will see.
      stored: any number M of further slots, none at first, that every token of the calls to
        come sees (chunked form). Nothing in the layer fills them: whoever holds the state puts
        tokens there that had left it, and takes them away. A distance of -j means from the
        j-th token of the current chunk on; ``NEVER`` means vacant.
    """

    positions: Positions
    fading: State
    inputs: Float[Array, "... B inputs D"]
    outputs: Float[Array, "... B outputs D"]
    power: Float[Array, "... B channels"]
    window: KeyValues
    faded: KeyValues
    slots: Slots
    eidetic: EideticSlots
    stored: Slots


def recall(
    sets: Ranked, new: KeyValues, old: EideticSlots, position: Int[Array, "B L"]
) -> tuple[KeyValues, Array]:
    """Keys, values and positions of the tokens in some sets; zeros in vacant slots.

    Args:
      sets: slots of any number of sets per row, their sources counted over the slots of
        ``old``, then the tokens of the call.
      new: keys and values of the call's tokens.
      old: the slots before the call.
      position: of the call's tokens.
    """
    rows = sets.source.shape[0]
    flat = sets.source.reshape(rows, -1)

    def gather(before: Array, now: Array) -> Array:
        both = jnp.concatenate([before, now.astype(before.dtype)], axis=1)
        held = pick(both, flat).reshape(*sets.source.shape, *both.shape[2:])
        taken = (sets.score != EMPTY).reshape(*sets.score.shape, *(1,) * (both.ndim - 2))
        return jnp.where(taken, held, 0)

    return jax.tree.map(gather, old.kept, new), gather(old.position, position)


def remember(
    final: Ranked, new: KeyValues, old: EideticSlots, position: Int[Array, "B L"]
) -> EideticSlots:
    """The slots after a call that leaves the set ``final``."""
    kept, where = recall(final, new, old, position)
    return EideticSlots(kept, final.score, where)


def eidetic_before(
    context: TimeContext,
    first: EideticSlots,
    score: Float[Array, "B L"],
    new: KeyValues,
    span: TokenPositions,
) -> EideticSlots:
    """The slots before this device's tokens.

    Args:
      context: where the tokens before are.
      first: the slots before the tokens of all devices.
      score: innovation of this device's tokens.
      new: their keys and values.
      span: where they are.
    """

    def own() -> tuple[Array, EideticSlots]:
        vacant = dataclasses.replace(first, score=jnp.full_like(first.score, EMPTY))
        _, final = running_sets(score, vacant.score, score.shape[1], None, span.start, span.valid)
        anew = none if span.start is None else span.start.any(axis=1)
        return anew, remember(final, new, vacant, span.position)

    none = jnp.zeros(score.shape[:1], bool)
    return context.scan(_merge, (none, first), own)[1]


def _merge(
    left: tuple[Array, EideticSlots], right: tuple[Array, EideticSlots]
) -> tuple[Array, EideticSlots]:
    """The best slots of both, as pairs (a document started, slots of the last document)."""
    (reset_l, earlier), (reset_r, later) = left, right
    size = earlier.score.shape[1]
    place = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), earlier.score.shape)
    kept = Ranked(jnp.where(reset_r[:, None], EMPTY, earlier.score), place)
    best = merge(kept, Ranked(later.score, place + size), size)

    def held(a: Array, b: Array) -> Array:
        x = pick(jnp.concatenate([a, b], axis=1), best.source)
        return jnp.where(
            (best.score != EMPTY).reshape(best.score.shape + (1,) * (x.ndim - 2)), x, 0
        )

    slots = jax.tree.map(held, earlier, later)
    return reset_l | reset_r, dataclasses.replace(slots, score=best.score)


def next_tails(tail: KeyValues, new: KeyValues, lengths: Array | None) -> KeyValues:
    """Keys and values of the last tokens after a call."""
    return jax.tree.map(lambda old, x: next_tail(old, x, lengths), tail, new)


def pick(values: Array, index: Int[Array, "B n"]) -> Array:
    """values[b, index[b, i]] for arrays of any rank."""
    extra = (1,) * (values.ndim - 2)
    return jnp.take_along_axis(values, index.reshape(*index.shape, *extra), axis=1)
