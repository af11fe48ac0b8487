"""Is a text easier to read the second time?"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bmojo.console import Progress, unseen
from bmojo.evaluation.stored.haystacks import fresh_store
from bmojo.evaluation.stored.scoring import score_stored
from bmojo.session import Use, identify
from bmojo.storage import Policy


def reread(
    model: Any, chapters: Sequence[Any], use: Use, policy: Policy, progress: Progress = unseen
) -> list[dict[str, Any]]:
    """Read each of two or more chapters twice with a store of its own, then the next with that.

    Returns:
      For each chapter its ``tokens``; mean losses in nats per token ``alone``, without a store, of
      the ``first`` reading and the ``second``, of the next chapter (``other_alone``), and of that
      with the store (``other``); and the store's ``entries`` behind the first reading.
    """
    if len(chapters) < 2:
        raise ValueError("chapters: give at least two, so that one can be another")

    def loss(document: Any, store: Any, use: Use, source: str) -> float:
        scores = score_stored(model, document, store, use, source, progress)
        return float(np.mean(scores.losses, dtype=np.float64))

    found = []
    reading = dataclasses.replace(use, write=False)
    alone = [loss(chapter, None, use, f"chapter {i}") for i, chapter in enumerate(chapters)]
    for number, chapter in enumerate(chapters):
        following = (number + 1) % len(chapters)
        with fresh_store(identify(model, None, "rereading"), policy) as store:
            first = loss(chapter, store, use, "first reading")
            entries = len(store)
            second = loss(chapter, store, use, "second reading")
            other = loss(chapters[following], store, reading, "another chapter")
        row = {"tokens": len(chapter), "alone": alone[number], "first": first, "second": second}
        found.append({**row, "other_alone": alone[following], "other": other, "entries": entries})
    return found
