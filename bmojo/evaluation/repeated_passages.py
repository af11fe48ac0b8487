"""Loss on a passage that is read a second time, far behind the first, within one text.

The text is a passage A, a gap of the text that follows it, and A again, which a model with memory
predicts better. Another passage B, the gap and A give the loss without memory at the same place.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.evaluation.streaming import stream_losses

__all__ = ["PassagePairs", "RepeatedPassages", "measure_passages", "passage_pairs"]


@dataclasses.dataclass(frozen=True)
class PassagePairs:
    """Token ids, each (passage + gap + passage,): with the passage twice, and with another one."""

    again: list[np.ndarray]
    other: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class RepeatedPassages:
    """Mean losses of the second reading's tokens in nats, and their standard errors over texts.

    Attributes:
      gap: tokens between the two readings.
      again: loss of the passage, read before.
      other: loss of the same passage with another one in its place before.
      saved: ``other - again``.
      stderr: of ``saved``.
      texts: number of texts.
      by_place: saved loss at each place of the passage, (passage,).
    """

    gap: int
    again: float
    other: float
    saved: float
    stderr: float | None
    texts: int
    by_place: tuple[float, ...]


def passage_pairs(documents: Sequence[Any], passage: int, gap: int, count: int) -> PassagePairs:
    """``count`` passages from all documents, in proportion to their lengths.

    The other passage is that of the text half of all texts away.

    Raises:
      UserError: the documents are too short.
    """
    size = passage + gap
    starts = [
        (number, first)
        for number, document in enumerate(documents)
        for first in range(0, len(document) - size + 1, size)
    ]
    if len(starts) < max(count, 2):
        raise UserError(
            f"documents: they hold {len(starts)} passages of {passage} tokens with {gap} after "
            f"them, fewer than {max(count, 2)}; take fewer or shorter ones"
        )
    chosen = [starts[i * len(starts) // count] for i in range(count)]
    pieces = [np.asarray(documents[n][first : first + size]) for n, first in chosen]
    heads = [piece[:passage] for piece in pieces]
    others = [heads[(i + count // 2) % count] for i in range(count)]
    return PassagePairs(
        *(
            [
                np.concatenate([first, piece[passage:], head])
                for first, piece, head in zip(firsts, pieces, heads, strict=True)
            ]
            for firsts in (heads, others)
        )
    )


def measure_passages(
    model: Any,
    documents: Sequence[Any],
    passage: int,
    gaps: Sequence[int],
    count: int = 64,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[RepeatedPassages]:
    """Loss that a model saves on passages that it has read before.

    Args:
      model: a :class:`bmojo.model.Model`.
      documents: token sequences to take passages from.
      passage: tokens of each.
      gaps: tokens between the end of the first reading and the second.
      count: texts for each gap, at least two.
      progress: called with numbers of tokens predicted.
    """
    found = []
    for gap in gaps:
        pairs = passage_pairs(documents, passage, gap, count)
        again, other = (
            np.stack([loss[-passage:] for loss in stream_losses(model, part, progress=progress)])
            for part in (pairs.again, pairs.other)
        )
        saved = (other - again).astype(np.float64)
        means = saved.mean(1)
        found.append(
            RepeatedPassages(
                gap=gap,
                again=float(again.mean(dtype=np.float64)),
                other=float(other.mean(dtype=np.float64)),
                saved=float(means.mean()),
                stderr=float(means.std(ddof=1) / len(means) ** 0.5),
                texts=count,
                by_place=tuple(saved.mean(0).tolist()),
            )
        )
    return found
