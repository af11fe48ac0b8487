"""Loss on a passage that is read a second time, far behind the first, within one text.

The text is a passage A, a gap of the text that follows it, and A again, which a model with memory
predicts better. Another passage B, the gap and A give the loss without memory at the same place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bmojo.console import Progress, unseen
from bmojo.errors import UserError
from bmojo.evaluation.perplexity import standard_error
from bmojo.evaluation.streaming import stream_losses

__all__ = ["measure_passages", "passage_pairs"]


def passage_pairs(
    documents: Sequence[Any], passage: int, gap: int, count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``count`` passages from all documents, in proportion to their lengths.

    Returns:
      Token ids, each (passage + gap + passage,), with the passage twice; and those with another
      one in the first place, that of the text half of all texts away.

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
    tails = [np.concatenate([piece[passage:], piece[:passage]]) for piece in pieces]
    again, other = (list(map(np.append, firsts, tails)) for firsts in (heads, others))
    return again, other


def measure_passages(
    model: Any,
    documents: Sequence[Any],
    passage: int,
    gaps: Sequence[int],
    count: int = 64,
    progress: Progress = unseen,
) -> list[dict[str, Any]]:
    """Loss that a model saves on passages that it has read before.

    Passages of ``passage`` tokens are taken from the documents (token sequences), with each of the
    gaps between the end of the first reading and the second, and two or more (``count``) for each.

    Returns:
      For each ``gap`` mean losses of the second reading's tokens in nats: ``again``, of the passage
      read before, ``other``, with another one in its place before; the difference ``saved`` with
      its ``stderr`` over ``texts``, and ``by_place`` at each place of the passage, (passage,).
    """
    found = []
    for gap in gaps:
        again, other = (
            np.stack([loss[-passage:] for loss in stream_losses(model, part, progress=progress)])
            for part in passage_pairs(documents, passage, gap, count)
        )
        saved = (other - again).astype(np.float64)
        means = {"again": again, "other": other, "saved": saved}
        row = {name: float(values.mean(dtype=np.float64)) for name, values in means.items()}
        facts = {"gap": gap, "stderr": standard_error(saved.mean(1)), "texts": count}
        found.append({**row, **facts, "by_place": saved.mean(0).tolist()})
    return found
