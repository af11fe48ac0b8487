"""Positions: the place of rows and tokens in time, in documents and among padding.

Every mixer's state carries a :class:`Positions`; every call advances it and gets a
:class:`TokenPositions`, which says of each new token where it is, how much of its document lies
behind it, and whether it counts. All masks, resets and refresh grids derive from these
numbers, so that rows may stand at different positions, split anywhere, and hold several
documents.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

from bmojo.types import Array, Bool, Float, Int

Tree = TypeVar("Tree")


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

    def without_padding(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """``x`` with zeros at padding, which may hold anything."""
        return x if self.valid is None else jnp.where(self.valid[..., None], x, 0)


def advance(
    positions: Positions,
    length: int,
    segment_ids: Int[Array, "B L"] | None = None,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[TokenPositions, Positions]:
    """Place ``length`` new tokens after ``positions``.

    Args:
      positions: of the rows.
      length: L, new tokens, padding included.
      segment_ids: document of each token. A token whose id differs from the one before it
        (for the first token: from ``positions.segment``) starts a document. None: every token
        goes on with the row's current document.
      lengths: valid tokens of each row, the rest being padding on the right. None: L.

    Returns:
      Positions of the new tokens, and of the rows after the valid ones.
    """
    batch_size = positions.position.shape[0]
    step = jnp.arange(length, dtype=jnp.int32)
    position = positions.position[:, None] + step
    full = jnp.full((batch_size,), length, jnp.int32)
    counts = full if lengths is None else lengths.astype(jnp.int32)
    valid = None if lengths is None else step < counts[:, None]

    segment_pos, start, segment = positions.segment_pos[:, None] + step, None, positions.segment
    last = positions.segment_pos + counts
    if segment_ids is not None:
        segment_ids = segment_ids.astype(segment.dtype)
        before = jnp.concatenate([segment[:, None], segment_ids[:, :-1]], axis=1)
        start = segment_ids != before
        if valid is not None:
            start &= valid
        last_start = jax.lax.cummax(jnp.where(start, step, -1), axis=1)
        segment_pos = jnp.where(last_start < 0, segment_pos, step - last_start)
        newest = jnp.clip(counts - 1, 0, length - 1)[:, None]
        last = jnp.where(
            counts > 0, jnp.take_along_axis(segment_pos, newest, axis=1)[:, 0] + 1, last
        )
        newest = jnp.take_along_axis(segment_ids, newest, axis=1)[:, 0]
        segment = jnp.where(counts > 0, newest, segment)
    tokens = TokenPositions(position, segment_pos, start, valid, counts)
    return tokens, Positions(positions.position + counts, last, segment)


def next_tail(tail: Tree, x: Tree, lengths: Int[Array, "B"] | None = None) -> Tree:
    """The tail after a call: the last T entries of the rows' history.

    Args:
      tail: the T entries before the call; an array (B, T, ...) or a tree of such.
      x: the new entries (B, L, ...).
      lengths: how many of them count in each row; None: all.
    """

    def last_entries(tail: Array, x: Array) -> Array:
        size, length = tail.shape[1], x.shape[1]
        if lengths is None and length >= size:
            return x[:, length - size :].astype(tail.dtype)
        past = jnp.concatenate([tail, x.astype(tail.dtype)], axis=1)
        if lengths is None:
            return past[:, length:]
        index = lengths[:, None] + jnp.arange(size)
        return jnp.take_along_axis(past, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)

    return jax.tree.map(last_entries, tail, x)
