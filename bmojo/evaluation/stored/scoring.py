"""The loss of a document that is read with a store beside the model."""

from typing import Any

import numpy as np

from bmojo.console import Progress, unseen
from bmojo.evaluation.streaming import Scores
from bmojo.generation.generate import check_finite, check_tokens
from bmojo.session import Session, Use
from bmojo.storage import Store


def score_stored(
    model: Any,
    document: Any,
    store: Store | None,
    use: Use,
    source: str,
    progress: Progress = unseen,
) -> Scores:
    """Predict every token of a document (n,) but the first from those before it, and the store.

    ``source`` is the document's name in the store.

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
        targets = document[1:][place]
        given = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        losses[place] = np.logaddexp.reduce(logits, axis=1) - given
        right[place] = logits.argmax(axis=1) == targets
        check_finite(losses[place], f"{source or 'document'}: its loss")
        progress(len(logits))
    session.finish()
    return Scores(losses, right)
