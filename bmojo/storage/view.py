"""What a process sees of a store: one published state after another, or its own writing."""

import threading

import numpy as np

from bmojo.storage.database import Database
from bmojo.storage.identity import Identity
from bmojo.storage.index import DamagedIndex
from bmojo.storage.layout import Layout
from bmojo.storage.loading import follow, load
from bmojo.storage.policy import Policy
from bmojo.storage.resident import Resident

__all__ = ["View"]

WEAKEST_STRENGTH = 1e-300


class View:
    """The layers of a store as far as they are in memory, and the rows for the rest.

    Args:
      layout: of the store.
      identity: whose memory it is.
      dtype: of keys and values on disk.
      exact_below: as many entries of a layer are searched without an index.

    Attributes:
      rows: read-only.
      shape: kv heads and width.
      layers: what is in memory of each.
      lock: held while that is read or changed.
      sources: numbers of sources.
      clock: tokens processed.
    """

    def __init__(self, layout: Layout, identity: Identity, dtype: str, exact_below: int):
        self.rows = Database(layout.rows, False, dtype)
        self.layers: dict[int, Resident] = {}
        self.lock = threading.RLock()
        self.sources: dict[str, int] = {}
        self.clock = 0
        self._layout, self._exact_below = layout, exact_below
        self._numbers = identity.layers
        self.shape = (identity.heads, identity.width)
        self._version = self._publication = self._epoch = -1
        self.refresh()

    def layer(self, number: int) -> Resident:
        """A layer.

        Raises:
          ValueError: the store does not hold it.
        """
        if number not in self.layers:
            raise ValueError(
                f"layer: {number} has no entries in {self._layout.path}; it holds those of layers "
                f"{', '.join(map(str, self._numbers))}"
            )
        return self.layers[number]

    def refresh(self) -> None:
        """See what another process has published."""
        for attempt in range(3):
            version = self.rows.data_version()
            if version == self._version:
                return
            try:
                with self.lock, self.rows.snapshot():
                    if self._version < 0 or self.rows.counter("epoch") != self._epoch:
                        self._load(lenient=attempt == 2)
                    else:
                        self._follow()
                    self.sources = self.rows.sources()
                    self.clock = self.rows.counter("clock")
                    self._publication = self.rows.counter("publication")
                    self._epoch = self.rows.counter("epoch")
                self._version = version
                return
            except DamagedIndex:  # a file of an index is damaged, or was replaced meanwhile
                self._version = -1

    def touch(self, layer: int, ids: np.ndarray, policy: Policy, now: float) -> np.ndarray:
        """Strengthen entries that were retrieved; their new strength, (n,)."""
        resident = self.layers[layer]
        log = resident.log_strength(policy, resident.places(ids), self.clock, now)
        strength = np.maximum(np.exp(log) + policy.reinforcement, WEAKEST_STRENGTH)
        resident.set_strength(ids, strength, self.clock, now)
        return strength

    def _load(self, lenient: bool) -> None:
        segments = self.rows.segments()
        for layer in self._numbers:
            mine = [segment for segment in segments if segment.layer == layer]
            self.layers[layer] = load(
                self.rows, layer, mine, self._layout.index, self.shape, self._exact_below, lenient
            )

    def _follow(self) -> None:
        gone = self.rows.forgotten(self._publication)
        touched = self.rows.touched(self._publication)
        segments = self.rows.segments()
        for layer, resident in self.layers.items():
            mine = [segment for segment in segments if segment.layer == layer]
            resident.remove(gone)
            resident.set_strength(
                touched["id"], touched["strength"], touched["clock"], touched["time"]
            )
            follow(resident, self.rows, layer, mine, self._layout.index, self.shape)
