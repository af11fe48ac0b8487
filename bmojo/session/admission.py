"""Which tokens of a stream are written to a store, and when."""

import numpy as np

from bmojo.storage import Entries

__all__ = ["CONTEXT", "Admission"]

CONTEXT = 16
"""Token ids that are kept with an entry: the last ones up to its own."""


class Admission:
    """Watches one layer: a token is written when it has left both window and slots.

    Written are tokens that were in the eidetic slots, and those that surprised enough. Until a
    token has left the layer's own memory the layer sees it there, so that nothing is seen twice.

    Args:
      window: W of the layer.
      threshold: innovation, in multiples of the layer's mean so far, from which a token is
        written though it was never in the slots; None: none is.
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
        """Look at n new tokens, and give those that have left by now.

        Args:
          k: keys (n, G, P).
          v: values (n, G, P).
          innovation: of each (n,).
          tokens: ids, the last n of which are theirs; those before are their context.
          held: positions in the eidetic slots behind them.
          first: position of the first.
        """
        count, before = len(innovation), len(tokens) - len(innovation)
        self._total += float(innovation.sum(dtype=np.float64))
        self._count += count
        in_slots = set(held.tolist())
        enough = np.inf if self._threshold is None else self._threshold * self._total / self._count
        for i in range(count):
            if innovation[i] >= enough or first + i in in_slots:
                context = np.full(CONTEXT, -1, np.int32)
                part = tokens[max(0, before + i + 1 - CONTEXT) : before + i + 1]
                context[CONTEXT - len(part) :] = part
                self._waiting[first + i] = (k[i], v[i], innovation[i], part[-1], context)
        edge = first + count - self._window
        return self._give([p for p in self._waiting if p <= edge and p not in in_slots])

    def finish(self) -> Entries | None:
        """All that has not been given yet."""
        return self._give(list(self._waiting))

    def _give(self, positions: list[int]) -> Entries | None:
        if not positions:
            return None
        positions.sort()
        k, v, innovation, token, context = zip(
            *(self._waiting.pop(p) for p in positions), strict=True
        )
        return Entries(
            key=np.stack(k),
            value=np.stack(v),
            innovation=np.asarray(innovation, np.float32),
            position=np.asarray(positions, np.int64),
            token=np.asarray(token, np.int32),
            context=np.stack(context),
        )
