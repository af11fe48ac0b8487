"""Positions, documents and tails of rows, as tensors: ``bmojo.ops.positions`` for PyTorch."""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where rows stand between two calls; all int32.

    Attributes:
      position: (B,) tokens seen.
      segment_pos: (B,) tokens seen of the current document.
      segment: (B,) id of the current document, -1 where none was named.
    """

    position: Tensor
    segment_pos: Tensor
    segment: Tensor

    @classmethod
    def zero(cls, rows: int, device: torch.device | None = None) -> "Positions":
        """The positions of rows that have seen nothing."""
        nothing = torch.zeros(rows, dtype=torch.int32, device=device)
        return cls(nothing, nothing.clone(), nothing - 1)


@dataclasses.dataclass(frozen=True)
class TokenPositions:
    """The tokens of one call.

    Attributes:
      position: (B, L) int32, in the row.
      segment_pos: (B, L) int32, tokens of the same document before each token.
      start: (B, L) bool, first tokens of documents; None: no document starts.
      valid: (B, L) bool, false at right padding; None: there is none.
      lengths: (B,) valid tokens.
    """

    position: Tensor
    segment_pos: Tensor
    start: Tensor | None
    valid: Tensor | None
    lengths: Tensor


def advance(
    positions: Positions,
    length: int,
    segment_ids: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[TokenPositions, Positions]:
    """Place ``length`` tokens after a positions; see :func:`bmojo.ops.positions.advance`."""
    rows, device = positions.position.shape[0], positions.position.device
    step = torch.arange(length, dtype=torch.int32, device=device)
    position = positions.position[:, None] + step
    if lengths is None:
        counts = torch.full((rows,), length, dtype=torch.int32, device=device)
        valid = None
    else:
        counts = lengths.to(torch.int32)
        valid = step < counts[:, None]
    last = (counts - 1).clamp(0, length - 1)[:, None].long()
    if segment_ids is None:
        start, segment = None, positions.segment
        segment_pos = positions.segment_pos[:, None] + step
    else:
        segment_ids = segment_ids.to(torch.int32)
        before = torch.cat([positions.segment[:, None], segment_ids[:, :-1]], dim=1)
        start = segment_ids != before
        if valid is not None:
            start = start & valid
        newest = torch.where(start, step, -1).cummax(dim=1).values
        segment_pos = torch.where(
            newest < 0, positions.segment_pos[:, None] + step, step - newest
        ).to(torch.int32)
        here = segment_ids.gather(1, last)[:, 0]
        segment = torch.where(counts > 0, here, positions.segment)
    after = Positions(
        position=positions.position + counts,
        segment_pos=torch.where(
            counts > 0, segment_pos.gather(1, last)[:, 0] + 1, positions.segment_pos
        ),
        segment=segment,
    )
    return TokenPositions(position, segment_pos, start, valid, counts), after


def take(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b, ...]] for a tensor (B, T, ...) and indices (B, ...)."""
    rows = torch.arange(values.shape[0], device=values.device)
    return values[rows.reshape(-1, *(1,) * (index.ndim - 1)), index.long()]


def next_tail(tail: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
    """The last T entries of each row after a call; see ``bmojo.ops.positions.next_tail``."""
    size, length = tail.shape[1], x.shape[1]
    past = torch.cat([tail, x.to(tail.dtype)], dim=1)
    if lengths is None:
        return past[:, length:]
    return take(past, lengths[:, None] + torch.arange(size, device=x.device))
