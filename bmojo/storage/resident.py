"""What a process keeps in memory of one layer of a store."""

from collections.abc import Sequence

import numpy as np

from bmojo.storage.database import COLUMNS
from bmojo.storage.index import OpenSegment
from bmojo.storage.policy import Policy

__all__ = ["Resident"]


class Resident:
    """Some numbers of every entry of a layer, and the newest entries whole.

    Entries that no index segment holds are the tail; their ids are above those of all segments.
    An entry costs 52 bytes of memory, one of the tail its key and value besides.

    Args:
      shape: kv heads G and width P.

    Attributes:
      segments: indexes of all entries before the tail, rising.
    """

    def __init__(self, shape: tuple[int, int]):
        self.segments: list[OpenSegment] = []
        self._columns = {name: np.zeros(0, COLUMNS[name]) for name in COLUMNS.names or ()}
        heads, width = shape
        self._keys = np.zeros((heads, 0, width), np.float32)
        self._values = np.zeros((0, heads, width), np.float32)
        self._count = self._tail = 0

    def __len__(self) -> int:
        return self._count

    def column(self, name: str) -> np.ndarray:
        """A number of every entry, by rising id; a view."""
        return self._columns[name][: self._count]

    @property
    def indexed(self) -> int:
        """Entries before the tail."""
        return self._count - self._tail

    @property
    def tail(self) -> int:
        """Entries of the tail."""
        return self._tail

    @property
    def covered(self) -> int:
        """The last id of the segments, -1 without any."""
        return self.segments[-1].segment.last if self.segments else -1

    @property
    def last(self) -> int:
        """The largest id, -1 without any."""
        return int(self.column("id")[-1]) if self._count else -1

    def tail_keys(self, head: int) -> np.ndarray:
        """Keys of the tail, (n, P); a view."""
        return self._keys[head, : self._tail]

    def append(self, columns: np.ndarray, key: np.ndarray, value: np.ndarray) -> None:
        """Add entries with larger ids; the last ones are the tail's.

        Args:
          columns: (n,), of dtype ``COLUMNS``.
          key: (m, G, P) of the last m of them.
          value: (m, G, P).
        """
        stop = self._count + len(columns)
        for name, column in self._columns.items():
            self._columns[name] = column = _grown(column, stop, 0)
            column[self._count : stop] = columns[name]
        self._count = stop
        stop = self._tail + len(key)
        self._keys = _grown(self._keys, stop, 1)
        self._values = _grown(self._values, stop, 0)
        self._keys[:, self._tail : stop] = key.swapaxes(0, 1)
        self._values[self._tail : stop] = value
        self._tail = stop

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Where ids are, -1 for those that are not there; of the shape of ``ids``."""
        known = self.column("id")
        if not len(known):
            return np.full(np.shape(ids), -1)
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[places] == ids, places, -1)

    def living(self, first: int, last: int) -> int:
        """How many ids are in a range."""
        ids = self.column("id")
        return int(np.searchsorted(ids, last, "right") - np.searchsorted(ids, first, "left"))

    def payload(self, place: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Key and value of an entry of the tail."""
        row = place - self.indexed
        return self._keys[head, row], self._values[row, head]

    def log_strength(
        self, policy: Policy, places: np.ndarray | slice, clock: int, now: float
    ) -> np.ndarray:
        """Logarithm of what is left of entries."""
        strength, then, time = (self.column(n)[places] for n in ("strength", "clock", "time"))
        return policy.log_strength(strength, then, time, clock, now)

    def set_strength(
        self,
        ids: np.ndarray,
        strength: np.ndarray,
        clock: np.ndarray | int,
        time: np.ndarray | float,
    ) -> None:
        """Change the strength of entries that are there."""
        places = self.places(ids)
        there = places >= 0
        for name, values in (("strength", strength), ("clock", clock), ("time", time)):
            self.column(name)[places[there]] = np.broadcast_to(values, ids.shape)[there]

    def remove(self, ids: np.ndarray) -> None:
        """Forget entries."""
        places = self.places(np.asarray(ids, np.int64))
        places = places[places >= 0]
        if not len(places):
            return
        keep = np.ones(self._count, bool)
        keep[places] = False
        tail = keep[self.indexed :]
        for name in self._columns:
            self._columns[name] = self.column(name)[keep]
        self._keys = self._keys[:, : self._tail][:, tail]
        self._values = self._values[: self._tail][tail]
        self._count, self._tail = int(keep.sum()), int(tail.sum())

    def enter(self, opened: OpenSegment | None, gone: Sequence[str]) -> None:
        """Put a segment in the place of others; what it holds leaves the tail."""
        kept = [s for s in self.segments if s.segment.name not in gone]
        if opened is not None:
            kept.append(opened)
        self.segments = sorted(kept, key=lambda s: s.segment.first)
        self.cut()

    def cut(self) -> None:
        """Let what the segments hold leave the tail."""
        ids = self.column("id")[self.indexed :]
        leaving = int(np.searchsorted(ids, self.covered, "right"))
        if leaving:
            self._keys = self._keys[:, leaving : self._tail].copy()
            self._values = self._values[leaving : self._tail].copy()
            self._tail -= leaving

    def weakest(self, count: int, policy: Policy, clock: int, now: float) -> np.ndarray:
        """Ids of the weakest entries; of equally strong ones the least surprising, then oldest."""
        strength = self.log_strength(policy, slice(None), clock, now)
        order = np.lexsort((self.column("id"), self.column("innovation"), strength))
        return np.sort(self.column("id")[order[:count]])


def _grown(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    """An array with room for more, the same one if it has it already."""
    if array.shape[axis] >= length:
        return array
    shape = list(array.shape)
    shape[axis] = max(length, shape[axis] * 3 // 2, 64)
    grown = np.zeros(shape, array.dtype)
    grown[(slice(None),) * axis + (slice(0, array.shape[axis]),)] = array
    return grown
