"""Loss on a passage that is read a second time, far behind the first, within one text.

A passage A, a gap of the text that follows it, and A again: who remembers A foretells it. The same
passage behind another one, B, gap, A, says what it costs without: as far on, with as much read.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.evaluation.streaming import stream_losses

__all__ = ["Again", "Texts", "read_again", "texts"]


@dataclasses.dataclass(frozen=True)
class Texts:
    """Token ids, each (passage + gap + passage,): with the passage twice, and with another one."""

    again: list[np.ndarray]
    other: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Again:
    """Mean losses of the second reading's tokens in nats, and their standard errors over texts.

    Attributes:
      gap: tokens between the two readings.
      again: loss of the passage, read before.
      other: loss of the same passage with another one in its place before.
      saved: ``other - again``.
      stderr: of ``saved``.
      texts: how many were read.
      by_place: what is saved at each place of the passage, (passage,).
    """

    gap: int
    again: float
    other: float
    saved: float
    stderr: float | None
    texts: int
    by_place: tuple[float, ...]


def texts(documents: Sequence[Any], passage: int, gap: int, count: int) -> Texts:
    """``count`` passages from all over the documents, in proportion to their lengths.

    The other passage is that of the text half of all texts away.

    Raises:
      UserError: the documents are too short for it.
    """
    size = passage + gap
    starts = [
        (number, first)
        for number, document in enumerate(documents)
        for first in range(0, len(document) - size + 1, size)
    ]
    if len(starts) < max(count, 2):
        raise UserError(
            f"documents: they hold {len(starts)} passages of {passage} tokens and {gap} behind, "
            f"fewer than {max(count, 2)}; take fewer or shorter ones"
        )
    chosen = [starts[i * len(starts) // count] for i in range(count)]
    pieces = [np.asarray(documents[n][first : first + size]) for n, first in chosen]
    others = [pieces[(i + count // 2) % count] for i in range(count)]
    return Texts(
        [np.concatenate([piece, piece[:passage]]) for piece in pieces],
        [
            np.concatenate([other[:passage], piece[passage:], piece[:passage]])
            for piece, other in zip(pieces, others, strict=True)
        ],
    )


def read_again(
    model: Any,
    documents: Sequence[Any],
    passage: int,
    gaps: Sequence[int],
    count: int = 64,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[Again]:
    """What a model saves on passages that it has read before.

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
        pair = texts(documents, passage, gap, count)
        again, other = (
            np.stack([loss[-passage:] for loss in stream_losses(model, part, progress=progress)])
            for part in (pair.again, pair.other)
        )
        saved = (other - again).astype(np.float64)
        means = saved.mean(1)
        found.append(
            Again(
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
