"""The entries of one layer in memory: their keys as matrices, and the columns that rank them."""

from typing import Any

import numpy as np

from bmojo.storage.policy import Policy

__all__ = ["COLUMNS", "KeyMatrix"]

COLUMNS = {
    "id": np.int64,
    "log_strength": np.float64,
    "clock": np.int64,
    "time": np.float64,
    "position": np.int64,
    "source": np.int64,
    "innovation": np.float32,
}
"""The columns of an entry beside its key, 52 bytes. ``clock`` and ``time`` are those of the last
retrieval, or else of writing; ``log_strength`` is the logarithm of strength then."""
ROOM = 8192
"""Arrays have room for a multiple of so many entries."""


class KeyMatrix:
    """Keys and columns of all entries of a layer, by rising id; an entry's place is its row.

    Attributes:
      keys: of each head, (m, P), float32; rows behind the last entry are arbitrary.
      largest: an upper bound of the keys' norms in each head (G,).
    """

    def __init__(self, heads: int, width: int, policy: Policy):
        self._columns = {name: np.zeros(0, dtype) for name, dtype in COLUMNS.items()}
        self._policy, self._count = policy, 0
        self.keys = [np.zeros((0, width), np.float32) for _ in range(heads)]
        self.largest = np.zeros(heads)

    def __len__(self) -> int:
        return self._count

    def column(self, name: str) -> np.ndarray:
        """One of COLUMNS of every entry; a view."""
        return self._columns[name][: self._count]

    def append(self, key: np.ndarray, **columns: Any) -> None:
        """Add entries with larger ids: keys (n, G, P), and COLUMNS, each (n,) or one for all."""
        start, self._count = self._count, self._count + len(key)
        for name in COLUMNS:
            self._columns[name] = _with_room(self._columns[name], self._count)
            self.column(name)[start:] = columns[name]
        for head in range(len(self.keys)):
            self.keys[head] = _with_room(self.keys[head], self._count)
            self.keys[head][start : self._count] = key[:, head]
        norms = np.linalg.norm(key.astype(np.float64), axis=2)
        self.largest = np.maximum(self.largest, norms.max(axis=0, initial=0.0))

    def keep(self, which: np.ndarray) -> None:
        """Drop all entries but some, (n,) bool."""
        if which.all():
            return
        first = int(np.argmin(which))
        rest = np.flatnonzero(which[first:]) + first
        for array in (*self._columns.values(), *self.keys):
            array[first : first + len(rest)] = array[rest]
        self._count = first + len(rest)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Places of ids, -1 for those that are not there; of the shape of ``ids``."""
        known = self.column("id")
        if not len(known):
            return np.full(np.shape(ids), -1)
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[places] == ids, places, -1)

    def log_strength(self, clock: int, now: float) -> np.ndarray:
        """Logarithm of the strength that entries have now."""
        log, then, time = (self.column(name) for name in ("log_strength", "clock", "time"))
        return self._policy.decayed(log, then, time, clock, now)

    def touch(self, ids: np.ndarray, log: np.ndarray, clock: int, now: float) -> np.ndarray:
        """Reinforce entries whose strength has the logarithm ``log``; that of the new one (n,)."""
        if self._policy.reinforcement:
            log = np.logaddexp(log, np.log(self._policy.reinforcement))
        self.update(ids, log_strength=log, clock=clock, time=now)
        return log

    def update(self, ids: np.ndarray, **columns: Any) -> None:
        """Change columns of those of the entries that are there."""
        places = self.places(ids)
        there = places >= 0
        for name, new in columns.items():
            self.column(name)[places[there]] = np.broadcast_to(new, ids.shape)[there]


def _with_room(array: np.ndarray, length: int) -> np.ndarray:
    """An array with room for so many rows, the same one if it has it already."""
    if len(array) >= length:
        return array
    rows = -(-max(length, len(array) * 5 // 4) // ROOM) * ROOM
    grown = np.zeros((rows, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
