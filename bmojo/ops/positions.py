"""Where each row stands in time: positions, documents, padding.

Every mixer's state carries a :class:`Positions`; every call advances it and gets a
:class:`TokenPositions`, which says of each new token where it is, how much of its document lies
behind it, and whether it counts. All masks, resets and refresh grids derive from these
numbers, so that rows may stand at different positions, split anywhere, and hold several
documents.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bmojo.types import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """Position of each row between two calls.

    Attributes:
      position: tokens that the row has seen. The refresh grid of a memory follows it.
      segment_pos: tokens that the row has seen of its current document.
      segment: id of the current document, -1 where none was ever named.
    """

    position: Int[Array, "... B"]
    segment_pos: Int[Array, "... B"]
    segment: Int[Array, "... B"]

    @classmethod
    def zero(cls, batch_size: int) -> "Positions":
        """The positions of rows that have seen nothing."""
        nothing = jnp.zeros((batch_size,), jnp.int32)
        return cls(position=nothing, segment_pos=nothing, segment=nothing - 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenPositions:
    """The tokens of one call, placed in time.

    Attributes:
      position: absolute position of each token in its row.
      segment_pos: tokens of the same document before this one. Nothing further back may
        influence the token.
      start: true at the first token of a document; None if no document starts in the call.
      valid: false at right padding; None if there is none.
      lengths: valid tokens of each row.
    """

    position: Int[Array, "B L"]
    segment_pos: Int[Array, "B L"]
    start: Bool[Array, "B L"] | None
    valid: Bool[Array, "B L"] | None
    lengths: Int[Array, "B"]


def advance(
    positions: Positions,
    length: int,
    segment_ids: Int[Array, "B L"] | None = None,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[TokenPositions, Positions]:
    """Place ``length`` new tokens after ``positions``.

    Args:
      positions: where the rows stand.
      length: L, new tokens, padding included.
      segment_ids: document of each token. A token whose id differs from the one before it
        (for the first token: from ``positions.segment``) starts a document. None: every token
        goes on with the row's current document.
      lengths: valid tokens of each row, the rest being padding on the right. None: L.

    Returns:
      The span of the new tokens, and the positions after the valid ones.
    """
    batch_size = positions.position.shape[0]
    step = jnp.arange(length, dtype=jnp.int32)
    position = positions.position[:, None] + step
    full = jnp.full((batch_size,), length, jnp.int32)
    counts = full if lengths is None else lengths.astype(jnp.int32)
    valid = None if lengths is None else step < counts[:, None]

    if segment_ids is None:
        start = None
        segment_pos = positions.segment_pos[:, None] + step
        segment = positions.segment
    else:
        before = jnp.concatenate([positions.segment[:, None], segment_ids[:, :-1]], axis=1)
        start = segment_ids != before
        if valid is not None:
            start &= valid
        last_start = jax.lax.cummax(jnp.where(start, step, -1), axis=1)
        segment_pos = jnp.where(
            last_start < 0, positions.segment_pos[:, None] + step, step - last_start
        )
        newest = _at(segment_ids, counts - 1)
        segment = jnp.where(counts > 0, newest, positions.segment)

    newest_age = _at(segment_pos, counts - 1) + 1
    after = Positions(
        position=positions.position + counts,
        segment_pos=jnp.where(counts > 0, newest_age, positions.segment_pos),
        segment=segment,
    )
    return TokenPositions(position, segment_pos, start, valid, counts), after


def _at(values: Int[Array, "B L"], index: Int[Array, "B"]) -> Int[Array, "B"]:
    """values[b, index[b]], with the index clamped into range."""
    safe = jnp.clip(index, 0, values.shape[1] - 1)
    return jnp.take_along_axis(values, safe[:, None], axis=1)[:, 0]
