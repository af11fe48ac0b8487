"""Admission to a store: which tokens of a stream are written, and when."""

import numpy as np

from bmojo.storage import Entries

__all__ = ["CONTEXT", "Admission"]

CONTEXT = 16
"""Token ids that are kept with an entry: the last ones up to its own."""


class Admission:
    """Admits the tokens of one layer: each when it has left both window and slots.

    Admitted are tokens that were in the eidetic slots, and those that surprised enough. Until a
    token has left the layer's own memory the layer sees it there, so that none is seen twice.

    Args:
      window: W of the layer.
      threshold: innovation, in multiples of the layer's mean so far, from which a token is
        admitted though it was never in the slots; None: none is.
    """

    def __init__(self, window: int, threshold: float | None):
        self._window, self._threshold = window, threshold
        self._waiting: dict[int, tuple[np.ndarray, ...]] = {}
        self._total, self._count = 0.0, 0

    def take(
        self,
        k: np.ndarray,
        v: np.ndarray,
        innovation: np.ndarray,
        tokens: np.ndarray,
        held: np.ndarray,
        first: int,
    ) -> Entries | None:
        """Take n new tokens, the first at position ``first``; the entries of those that have left.

        Keys ``k`` and values ``v`` are (n, G, P), ``innovation`` (n,). The last n ids of ``tokens``
        are theirs, those before their context. ``held`` are the positions in the eidetic slots
        behind them.
        """
        count, before = len(innovation), len(tokens) - len(innovation)
        self._total += float(innovation.sum(dtype=np.float64))
        self._count += count
        in_slots = set(held.tolist())
        enough = np.inf if self._threshold is None else self._threshold * self._total / self._count
        padded = np.concatenate([np.full(CONTEXT, -1), tokens])[before:]
        for i in range(count):
            if innovation[i] >= enough or first + i in in_slots:
                context = padded[i + 1 : i + 1 + CONTEXT]
                self._waiting[first + i] = (k[i], v[i], innovation[i], context)
        edge = first + count - self._window
        return self._entries([p for p in self._waiting if p <= edge and p not in in_slots])

    def finish(self) -> Entries | None:
        """Entries of all admitted tokens that were not returned yet."""
        return self._entries(list(self._waiting))

    def _entries(self, positions: list[int]) -> Entries | None:
        if not positions:
            return None
        waiting = [self._waiting.pop(p) for p in sorted(positions)]
        k, v, innovation, context = (np.stack(x) for x in zip(*waiting, strict=True))
        return Entries(k, v, innovation, np.sort(positions), context[:, -1], context)
