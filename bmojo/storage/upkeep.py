"""Keeping the indexes of a store up with its rows."""

import logging
import threading
from collections.abc import Callable, Generator, Iterator

import numpy as np

from bmojo.storage import index
from bmojo.storage.database import Database
from bmojo.storage.layout import Layout
from bmojo.storage.loading import load
from bmojo.storage.resident import Resident
from bmojo.storage.segments import Work, next_work

__all__ = ["Upkeep"]

logger = logging.getLogger(__name__)


class Upkeep:
    """Makes segments of what is published, and joins them. Runs beside searches.

    Args:
      layout: of the store.
      layers: what is kept in memory of each layer.
      lock: held while that is changed.
      shape: kv heads and width.
      exact_below: as many entries of a layer are searched without an index.
      database: the rows, for the one thread that writes them.
    """

    def __init__(
        self,
        layout: Layout,
        layers: dict[int, Resident],
        lock: threading.RLock,
        shape: tuple[int, int],
        exact_below: int,
        database: Database,
    ):
        self._layout, self._layers, self._lock = layout, layers, lock
        self._shape, self._exact_below, self._database = shape, exact_below, database
        self._number = database.counter("segment")

    def behind(self) -> bool:
        """Whether so many entries are in no index that writing should wait."""
        return any(layer.tail > 3 * self._exact_below for layer in self._layers.values())

    def steps(self, published: Callable[[], int], commit: Callable[[], None]) -> Iterator[int]:
        """Do what is to be done now.

        Args:
          published: ids below this are committed.
          commit: commits the rest.

        Yields:
          How many entries were added to a graph.
        """
        for layer in self._layers:
            for _ in range(2):
                with self._lock:
                    work = self._plan(layer, published())
                if work is None:
                    break
                yield from self._make(work, commit, threads=1)

    def _plan(self, layer: int, published: int) -> Work | None:
        resident = self._layers[layer]
        segments = [opened.segment for opened in resident.segments]
        ids = resident.column("id")[resident.indexed :]
        ids = ids[: np.searchsorted(ids, published)]
        tail = (int(ids[0]), int(ids[-1]), len(ids)) if len(ids) else (0, -1, 0)
        alive = [resident.living(segment.first, segment.last) for segment in segments]
        return next_work(layer, segments, alive, tail, self._exact_below)

    def _make(
        self, work: Work, commit: Callable[[], None], threads: int
    ) -> Generator[int, None, None]:
        self._number += 1
        name = f"{work.layer}-{self._number}"
        directory = self._layout.index
        segment = yield from index.build(
            self._database, work, directory, name, self._shape, threads
        )
        self._database.begin()
        self._database.replace_segments(work.gone, segment)
        self._database.set_counter("segment", self._number)
        commit()
        opened = None
        if segment is not None:
            opened = index.OpenSegment(segment, directory, self._shape[1], checked=True)
        with self._lock:
            self._layers[work.layer].enter(opened, work.gone)
        index.remove_others(directory, self._database.segments())

    def renew(
        self, commit: Callable[[], None], progress: Callable[[int], None], threads: int
    ) -> None:
        """Make all indexes anew, one segment for each layer that needs an index."""
        self._database.begin()
        self._database.execute("DELETE FROM forgotten")
        self._database.set_counter("epoch", self._database.counter("epoch") + 1)
        commit()
        for layer, resident in self._layers.items():
            gone = tuple(s.name for s in self._database.segments() if s.layer == layer)
            if len(resident) > self._exact_below:
                work = Work(layer, 0, resident.last, None, gone)
                for count in self._make(work, commit, threads):
                    progress(count)
            elif gone:
                self._database.begin()
                self._database.replace_segments(gone, None)
                commit()
            self._reload(layer)
        index.remove_others(self._layout.index, self._database.segments())
        self._database.shrink()

    def drop_unusable(self) -> bool:
        """Take segments out of the rows that were not opened; whether there are any."""
        used = {s.segment.name for layer in self._layers.values() for s in layer.segments}
        gone = [s.name for s in self._database.segments() if s.name not in used]
        if gone:
            self._database.begin()
            self._database.replace_segments(gone, None)
            logger.warning(
                "%s: %d damaged index segments are built anew", self._layout.path, len(gone)
            )
        if self._layout.index.is_dir():
            index.remove_others(self._layout.index, self._database.segments())
        return bool(gone)

    def _reload(self, layer: int) -> None:
        segments = [s for s in self._database.segments() if s.layer == layer]
        made = load(
            self._database, layer, segments, self._layout.index, self._shape, self._exact_below
        )
        with self._lock:
            self._layers[layer] = made
