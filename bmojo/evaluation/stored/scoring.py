"""The loss of a document that is read with a store beside the model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.evaluation.streaming import Scores
from bmojo.generation.generate import check_tokens
from bmojo.session import Session, Use
from bmojo.storage import Store

__all__ = ["score_stored"]


def score_stored(
    model: Any,
    document: Any,
    store: Store | None,
    use: Use,
    source: str,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Scores:
    """Predict every token of a document but the first from all those before it, and the store.

    Args:
      model: a :class:`bmojo.model.Model`.
      document: token ids (n,).
      store: what is looked up and, if ``use.write``, written; None: none.
      use: how.
      source: name of the document in the store.
      progress: called with the number of tokens of every cell.

    Raises:
      UserError: a token is not of this model, or a loss is not finite.
    """
    document = np.asarray(document, np.int32)
    check_tokens(document, model.config.vocab_size, source or "document")
    count = max(len(document) - 1, 0)
    losses, right = np.zeros(count, np.float32), np.zeros(count, bool)
    session = Session(model, store, use, source=source)
    for piece in session.pieces(document[:-1]):
        logits = np.asarray(piece.logits, np.float64)
        place = slice(piece.start, piece.start + len(logits))
        targets = document[piece.start + 1 : piece.start + 1 + len(logits)]
        losses[place] = _losses(logits, targets)
        right[place] = logits.argmax(axis=1) == targets
        if not np.isfinite(losses[place]).all():
            raise UserError(
                f"{source or 'document'}: its loss is not a number; the model's parameters are "
                "broken, use another checkpoint"
            )
        progress(len(logits))
    session.finish()
    return Scores(losses, right)


def _losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    peak = logits.max(axis=1)
    total = np.log(np.exp(logits - peak[:, None]).sum(axis=1)) + peak
    return total - np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
