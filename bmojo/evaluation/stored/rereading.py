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


@dataclasses.dataclass(frozen=True)
class Reread:
    """Mean losses in nats per token of readings of one chapter, and of another one.

    Attributes:
      tokens: of the chapter.
      alone: without a store.
      first: with an empty store.
      second: with what the first reading left in it.
      other_alone: another chapter without a store.
      other: that one with what two readings of the first chapter left; nothing is written.
      entries: in the store behind the first reading.
    """

    tokens: int
    alone: float
    first: float
    second: float
    other_alone: float
    other: float
    entries: int


def reread(
    model: Any, chapters: Sequence[Any], use: Use, policy: Policy, progress: Progress = unseen
) -> list[Reread]:
    """Read each of two or more chapters twice with a store of its own, then the next with that."""
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
        found.append(
            Reread(len(chapter), alone[number], first, second, alone[following], other, entries)
        )
    return found
