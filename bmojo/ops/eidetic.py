"""Selection for eidetic memory: the most surprising tokens so far, at every chunk edge.

A set is a pair (score, source), best first; an equal score leaves the earlier token ahead.
``source`` points into the axis [slots carried from before the call | tokens of the call].
Keeping the best of two sets is associative, so the sets of all chunks come from one scan.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bmojo.types import Array, Bool, Float, Int

EMPTY = -1.0
"""Score of an empty slot. Innovation is never negative."""


class Ranked(NamedTuple):
    """Sets of slots: scores, best first, and where each slot's token comes from."""

    score: Float[Array, "... M"]
    source: Int[Array, "... M"]


def merge(earlier: Ranked, later: Ranked, size: int) -> Ranked:
    """The best ``size`` of two sets of which ``earlier`` holds the earlier tokens."""
    score = jnp.concatenate([earlier.score, later.score], axis=-1)
    source = jnp.concatenate([earlier.source, later.source], axis=-1)
    return _best(score, source, size)


def running_sets(
    score: Float[Array, "B L"],
    carried: Float[Array, "B M"],
    chunk: int,
    offset: Int[Array, "B"] | None = None,
    start: Bool[Array, "B L"] | None = None,
    valid: Bool[Array, "B L"] | None = None,
) -> tuple[Ranked, Ranked]:
    """The M most surprising tokens of the current document at the end of each chunk.

    Sequentially: "replace the least surprising entry when the new token surprises more",
    with an empty memory at the start of every document.

    Args:
      score: innovation of each token, >= 0.
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
    old = Ranked(carried, jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), carried.shape))
    if valid is not None:
        score = jnp.where(valid, score, EMPTY)
    if length == 1:
        one = Ranked(score, jnp.full((batch, 1), size, jnp.int32))
        if start is not None:
            old = Ranked(jnp.where(start, EMPTY, old.score), old.source)
        final = merge(old, one, size)
        return Ranked(final.score[:, None], final.source[:, None]), final

    edges = -(-length // chunk)
    chunks = edges if offset is None else edges + 1
    cells = jnp.arange(chunks * chunk, dtype=jnp.int32)
    index = cells[None] if offset is None else cells[None] - offset[:, None]
    inside = (index >= 0) & (index < length)
    index = jnp.broadcast_to(jnp.clip(index, 0, length - 1), (batch, chunks * chunk))

    def to_grid(values: Array, fill: float | int | bool) -> Array:
        laid = jnp.where(inside, jnp.take_along_axis(values, index, axis=1), fill)
        return laid.reshape(batch, chunks, chunk)

    grid = to_grid(score, EMPTY)
    if start is None:
        resets = jnp.zeros((batch, chunks), bool)
    else:
        document = to_grid(jnp.cumsum(start, axis=1), -1)
        grid = jnp.where(document == document.max(axis=-1, keepdims=True), grid, EMPTY)
        resets = to_grid(start, False).any(axis=-1)
    own = _best(grid, index.reshape(batch, chunks, chunk) + size, size)

    def combine(left: tuple[Ranked, Array], right: tuple[Ranked, Array]) -> tuple[Ranked, Array]:
        (set_l, reset_l), (set_r, reset_r) = left, right
        kept = Ranked(jnp.where(reset_r[..., None], EMPTY, set_l.score), set_l.source)
        return merge(kept, set_r, size), reset_l | reset_r

    new, cut = jax.lax.associative_scan(combine, (own, resets), axis=1)
    before = Ranked(
        jnp.where(cut[..., None], EMPTY, old.score[:, None]),
        jnp.broadcast_to(old.source[:, None], new.source.shape),
    )
    sets = merge(before, new, size)
    return (
        Ranked(sets.score[:, :edges], sets.source[:, :edges]),
        Ranked(sets.score[:, -1], sets.source[:, -1]),
    )


def _best(score: Array, source: Array, size: int) -> Ranked:
    """The ``size`` largest, ties to the lower index, vacant slots behind."""
    missing = size - score.shape[-1]
    if missing > 0:
        widths = [(0, 0)] * (score.ndim - 1) + [(0, missing)]
        score = jnp.pad(score, widths, constant_values=EMPTY)
        source = jnp.pad(source, widths)
    top, index = jax.lax.top_k(score, size)
    return Ranked(top, jnp.take_along_axis(source, index, axis=-1))
