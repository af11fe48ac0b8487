"""Selection of eidetic tokens: scores of tokens, and the sets of them that are kept.

A rule of selection owns the whole choice: the scores, its state, the update of the kept set with
new tokens, and the merge of two sets, by which a set is handed from device to device. Everybody
else reads positions (``VACANT`` where a slot holds no token) and the places to gather from.

Sets have an axis S of heads: 1 where all key-value heads keep the same tokens, else G.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmojo.ops.innovation import innovation, residual
from bmojo.ops.positions import TokenPositions
from bmojo.ops.time_sharding import TimeContext
from bmojo.types import Array, Bool, DType, Float, Int, at_least_float32

EMPTY = -1.0
"""Score of a vacant slot. Innovation is never negative."""

VACANT = -1
"""Position of a vacant slot."""


class Ranked(NamedTuple):
    """Sets of M slots: scores, best first, and the place that each token is gathered from.

    ``source`` counts along [slots held before the call | tokens of the call].
    """

    score: Float[Array, "... M"]
    source: Int[Array, "... M"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SelectionState:
    """The tokens of the current document that are kept, best first.

    Attributes:
      score: ``EMPTY`` where the slot is vacant.
      position: of each token in its row, ``VACANT`` where there is none.
      power: means of squared residuals by channel so far, for normalized innovation; else of size
        zero. A mean, since a sum stops growing at 2^24 tokens.
    """

    score: Float[Array, "... S M"]
    position: Int[Array, "... S M"]
    power: Float[Array, "... channels"]


@dataclasses.dataclass(frozen=True)
class InnovationSelection:
    """Keep the ``size`` tokens with the largest innovation, among equals the earliest.

    "Replace the least surprising entry when a new token surprises more" (arXiv 2407.06324,
    section 3.1). Scores do not change once given, so that "the best of two sets" is associative
    and the sets at all chunk edges come from one scan over chunks.

    Attributes:
      size: M, slots.
      span: k, outputs of the fading memory that the predictor averages.
      normalize: divide the residual of each channel by its running root mean square.
    """

    size: int
    span: int = 4
    normalize: bool = False

    def init_state(self, rows: int, channels: int, dtype: DType) -> SelectionState:
        """The state of rows that have seen nothing."""
        number = at_least_float32(dtype)
        return SelectionState(
            score=jnp.full((rows, 1, self.size), EMPTY, number),
            position=jnp.full((rows, 1, self.size), VACANT, jnp.int32),
            power=jnp.zeros((rows, channels if self.normalize else 0), number),
        )

    def score(
        self,
        state: SelectionState,
        y: Float[Array, "B L D"],
        tail: Float[Array, "B T D"],
        tokens: TokenPositions,
        lengths: Int[Array, "B"] | None,
        context: TimeContext,
        seen: tuple[Int[Array, "B"], Int[Array, "B"]],
    ) -> tuple[Float[Array, "B L"], Float[Array, "B channels"]]:
        """The innovation of each token, and the state's ``power`` after the call.

        ``state`` is that before the tokens of all devices, ``y`` are outputs of the fading memory,
        ``tail`` at least ``span`` of those before the call. ``seen`` are the rows' tokens of the
        current document before the tokens of all devices, and after this device's.
        """
        y, tail = jax.lax.stop_gradient((y, tail))
        residuals = residual(y, tail, (1 / self.span,) * self.span, tokens.segment_pos)
        if not self.normalize:
            return innovation(residuals)[0], state.power

        def own() -> Array:
            _, total = innovation(residuals, jnp.zeros_like(state.power), tokens.segment_pos)
            assert total is not None
            return total

        total = state.power * seen[0][:, None]
        before = context.scan(jnp.add, total, own, tokens.segment_pos == 0)
        score, power = innovation(residuals, before, tokens.segment_pos, lengths)
        assert power is not None
        return score, power / jnp.maximum(seen[1], 1)[:, None]

    def update(
        self,
        state: SelectionState,
        score: Float[Array, "B L"],
        tokens: TokenPositions,
        chunk: int,
        offset: Int[Array, "B"] | None = None,
    ) -> tuple[Ranked, Ranked]:
        """The sets (B, C, S, M) at chunk edges that the call may reach, and (B, S, M) after it.

        See :func:`running_sets`; ``state`` is that before this device's tokens.
        """
        edges, final = running_sets(
            score, state.score[:, 0], chunk, offset, tokens.start, tokens.valid
        )
        return (
            Ranked(edges.score[:, :, None], edges.source[:, :, None]),
            Ranked(final.score[:, None], final.source[:, None]),
        )

    def merge(self, earlier: SelectionState, later: SelectionState) -> Ranked:
        """The best of two sets; sources count along [slots of earlier | slots of later]."""
        place = jnp.arange(self.size, dtype=jnp.int32)
        first = Ranked(earlier.score, jnp.broadcast_to(place, earlier.score.shape))
        second = Ranked(later.score, jnp.broadcast_to(place + self.size, later.score.shape))
        return best(self.size, first, second)


def running_sets(
    score: Float[Array, "B L"],
    carried: Float[Array, "B M"],
    chunk: int,
    offset: Int[Array, "B"] | None = None,
    start: Bool[Array, "B L"] | None = None,
    valid: Bool[Array, "B L"] | None = None,
) -> tuple[Ranked, Ranked]:
    """The M largest scores of the current document at the end of each chunk.

    No gradient flows through the choice.

    Args:
      score: of each token, >= 0.
      carried: scores of the set before the call, best first, ``EMPTY`` where vacant.
      chunk: tokens between two edges of the grid.
      offset: tokens of the current chunk that precede the call, per row; None: zero.
      start: first tokens of documents; None: no document starts.
      valid: false at padding; None: every token counts.

    Returns:
      The sets at the edges that the call may reach, shape (B, C, M): entry j is the set
      when chunk j of the call has ended, C = ceil(L / chunk). And the set after the last
      token, shape (B, M), which differs if the call ends between two edges.
    """
    (batch, length), size = score.shape, carried.shape[1]
    score, carried = jax.lax.stop_gradient((score, carried))
    old = Ranked(carried, jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), carried.shape))
    if valid is not None:
        score = jnp.where(valid, score, EMPTY)
    if length == 1:
        one = Ranked(score, jnp.full((batch, 1), size, jnp.int32))
        if start is not None:
            old = Ranked(jnp.where(start, EMPTY, old.score), old.source)
        final = best(size, old, one)
        return Ranked(final.score[:, None], final.source[:, None]), final

    # 1. Lay the tokens on the grid of chunks, which the call may begin between two edges.
    edges = -(-length // chunk)
    chunks = edges if offset is None else edges + 1
    cells = jnp.arange(chunks * chunk, dtype=jnp.int32)
    index = cells[None] if offset is None else cells[None] - offset[:, None]
    inside = (index >= 0) & (index < length)
    index = jnp.broadcast_to(jnp.clip(index, 0, length - 1), (batch, chunks * chunk))

    def to_grid(values: Array, fill: float | int | bool) -> Array:
        laid = jnp.where(inside, jnp.take_along_axis(values, index, axis=1), fill)
        return laid.reshape(batch, chunks, chunk)

    # 2. The best of each chunk by itself, of its last document alone.
    grid = to_grid(score, EMPTY)
    resets = jnp.zeros((batch, chunks, 1), bool)
    if start is not None:
        document = to_grid(jnp.cumsum(start, axis=1), -1)
        grid = jnp.where(document == document.max(axis=-1, keepdims=True), grid, EMPTY)
        resets = to_grid(start, False).any(axis=-1, keepdims=True)
    own = best(size, Ranked(grid, index.reshape(batch, chunks, chunk) + size))

    # 3. The best of all chunks up to each edge: an associative scan.
    def combine(left: tuple[Ranked, Array], right: tuple[Ranked, Array]) -> tuple[Ranked, Array]:
        (set_l, reset_l), (set_r, reset_r) = left, right
        kept = Ranked(jnp.where(reset_r, EMPTY, set_l.score), set_l.source)
        return best(size, kept, set_r), reset_l | reset_r

    new, cut = jax.lax.associative_scan(combine, (own, resets), axis=1)

    # 4. And of the set before the call, where its document goes on.
    before = Ranked(
        jnp.where(cut, EMPTY, old.score[:, None]),
        jnp.broadcast_to(old.source[:, None], new.source.shape),
    )
    sets = best(size, before, new)
    return (
        Ranked(sets.score[:, :edges], sets.source[:, :edges]),
        Ranked(sets.score[:, -1], sets.source[:, -1]),
    )


def best(size: int, *sets: Ranked) -> Ranked:
    """The ``size`` largest of some sets, in order of time: of equal scores the earlier is ahead."""
    score, source = (jnp.concatenate(x, axis=-1) for x in zip(*sets, strict=True))
    missing = size - score.shape[-1]
    if missing > 0:
        widths = [(0, 0)] * (score.ndim - 1) + [(0, missing)]
        score = jnp.pad(score, widths, constant_values=EMPTY)
        source = jnp.pad(source, widths)
    top, index = jax.lax.top_k(score, size)
    return Ranked(top, jnp.take_along_axis(source, index, axis=-1))
