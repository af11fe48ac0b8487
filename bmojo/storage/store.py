"""A store of entries on disk: written by one process, read by any number of them."""

import os
import threading
import time
from collections.abc import Callable, Collection

import numpy as np

from bmojo.errors import UserError
from bmojo.storage.database import COLUMNS, Database
from bmojo.storage.entries import Entries, Found, stored
from bmojo.storage.identity import Identity, refuse_stranger
from bmojo.storage.index import have_usearch, refuse_without_usearch
from bmojo.storage.layout import Description, Layout, WriterLock
from bmojo.storage.policy import Policy
from bmojo.storage.records import Records
from bmojo.storage.retrieval import retrieve
from bmojo.storage.search import Request
from bmojo.storage.trails import Trail
from bmojo.storage.turns import Looked, look_up
from bmojo.storage.upkeep import Upkeep
from bmojo.storage.view import View
from bmojo.storage.writer import Call, Forget, Insert, Publish, Source, Touch, Writer

__all__ = ["Store"]

BATCH = 1024
"""Entries written at a time."""
TOUCHES = 4096
"""Entries whose retrievals are remembered before they are written down."""


class Store:
    """Entries of the layers of one model, on disk; made by :meth:`open`.

    A writer finds what it has written at once, a reader what was published. Calls may come from
    several threads; they are done one after another. An error of the thread that writes is
    raised by the next call.

    Attributes:
      path: of the directory.
      identity: whose memory it is.
      policy: what is forgotten.
      exact_below: so many entries in no index are compared with every query.
    """

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        identity: Identity | None = None,
        policy: Policy | None = None,
        *,
        write: bool,
        synchronous: bool = False,
        exact_below: int = 16384,
        dtype: str | None = None,
    ) -> "Store":
        """Open a store, or make one.

        Args:
          directory: of the store.
          identity: of the model that is to use it; None opens that of any model.
          policy: replaces the one that is saved there; None keeps it. Only with ``write``.
          write: whether it is written to, by this process alone; then it is made if it is not
            there. Otherwise the last published state is read, however many others do so and
            whoever writes.
          synchronous: whether writing happens in the calls instead of in a thread. Then the same
            calls give the same ids and the same results, to the bit.
          exact_below: so many entries of a layer in no index are compared with every query;
            if there are more, they are indexed.
          dtype: of keys and values on disk, for a new store: "float32" (the default, nothing is
            lost) or "float16" (half the space).

        Raises:
          UserError: there is no store, or no place for one; another process writes to it; it
            belongs to another model; its files cannot be read; the package for indexes is
            missing and there are more than ``exact_below`` entries.
        """
        layout = Layout(directory)
        if not write:
            return cls(layout, identity, None, None, synchronous, exact_below)
        if not layout.description.exists():
            if identity is None:
                layout.read()  # says that there is none
            layout.claim()
        lock = WriterLock(layout)
        try:
            if not layout.description.exists() and identity is not None:
                new = Description(identity, policy or Policy(), dtype or "float32")
                Database(layout.rows, True, new.dtype).close()
                layout.write(new)
            return cls(layout, identity, policy, lock, synchronous, exact_below)
        except BaseException:
            lock.release()
            raise

    def __init__(
        self,
        layout: Layout,
        identity: Identity | None,
        policy: Policy | None,
        lock: WriterLock | None,
        synchronous: bool,
        exact_below: int,
    ):
        if exact_below < 1:
            raise ValueError(f"exact_below: {exact_below} is none; give 1 or more")
        there = layout.read()
        if identity is not None:
            refuse_stranger(layout.path, there.identity, identity)
        self._layout, self._file_lock, self.exact_below = layout, lock, exact_below
        self.path, self.identity, self.dtype = layout.path, there.identity, there.dtype
        self.policy = there.policy if policy is None or lock is None else policy
        if self.policy != there.policy:
            layout.write(Description(there.identity, self.policy, there.dtype))
        self._shape = (self.identity.heads, self.identity.width)
        self._caller = threading.RLock()
        self._touches: dict[int, tuple[int, float, float, int]] = {}
        self._closed = False
        self._view = View(layout, self.identity, self.dtype, exact_below)
        self._writer: Writer | None = None
        if lock is not None:
            self._next_id = self._view.rows.counter("next_id")
            self._writer = self._start(synchronous)

    def _start(self, synchronous: bool) -> Writer:
        database = Database(self._layout.rows, True, self.dtype)
        view = self._view
        self._upkeep = upkeep = Upkeep(
            self._layout, view.layers, view.lock, self._shape, self.exact_below, database
        )
        writer = Writer(
            database,
            lambda: upkeep.steps(lambda: writer.published, writer.commit),
            upkeep.behind,
            synchronous,
        )
        if upkeep.drop_unusable():
            writer.commit()
        writer.start()
        return writer

    @property
    def clock(self) -> int:
        """Tokens processed, the store's measure of age."""
        return self._view.clock

    @property
    def records(self) -> Records:
        """The published rows, for people."""
        with self._caller:
            self._ready()
            return Records(self._layout, self._view, self.policy)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Entries of all layers."""
        with self._view.lock:
            return sum(map(len, self._view.layers.values()))

    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def count(self, layer: int) -> int:
        """Entries of a layer."""
        with self._view.lock:
            return len(self._view.layer(layer))

    def unindexed(self, layer: int) -> int:
        """Entries of a layer that are in no index yet; every query is compared with them."""
        with self._view.lock:
            return self._view.layer(layer).tail

    def write(self, layer: int, entries: Entries, source: str, now: float | None = None) -> None:
        """Add entries; a copy of them is kept and written in the background.

        Args:
          layer: index of the layer.
          entries: what is written.
          source: name of the text that they come from.
          now: seconds since 1970; None: the time of the call.

        Raises:
          ValueError: shapes are not those of the store, or float16 cannot hold the numbers.
          UserError: the store was opened for reading, or an index is needed and the package for
            it is missing.
        """
        now = time.time() if now is None else float(now)
        with self._caller:
            writer, view = self._writing(), self._view
            resident = view.layer(layer)
            if not len(entries):
                return
            key, value = stored(entries, self._shape, self.dtype)
            if resident.tail + len(entries) > self.exact_below and not have_usearch():
                refuse_without_usearch(self.path, self.exact_below)
            number = view.sources.get(source)
            if number is None:
                number = view.sources[source] = len(view.sources) + 1
                writer.submit(Source(number, source))
            first, self._next_id = self._next_id, self._next_id + len(entries)
            columns = np.zeros(len(entries), COLUMNS)
            columns["id"] = np.arange(first, self._next_id)
            columns["strength"], columns["clock"], columns["time"] = 1.0, view.clock, now
            columns["position"], columns["source"] = entries.position, number
            columns["innovation"] = entries.innovation
            with view.lock:
                resident.append(columns, key, value)
            for start in range(0, len(entries), BATCH):
                part = entries.part(start, start + BATCH)
                writer.submit(Insert(first + start, layer, part, number, view.clock, now))
            if self.policy.capacity is not None:
                self._enforce(layer, max(256, self.policy.capacity // 8), now)

    def advance(self, tokens: int) -> None:
        """Let the store's clock go on by so many tokens."""
        with self._caller:
            self._writing()
            if tokens < 0:
                raise ValueError(f"tokens: {tokens} is negative; the clock goes forward")
            self._view.clock += tokens

    def publish(self, now: float | None = None) -> None:
        """Make all that was written durable, and seen by readers; waits until it is.

        Entries beyond the policy's capacity are forgotten before.
        """
        with self._caller:
            writer = self._writing()
            now = time.time() if now is None else float(now)
            for layer in self._view.layers:
                self._enforce(layer, 0, now)
            self._write_touches(writer)
            writer.finish(Publish(self._view.clock))

    def search(
        self,
        layer: int,
        queries: np.ndarray,
        *,
        nearest: int,
        limit: int,
        source: str | None = None,
        exclude_source: str | None = None,
        exclude_after_position: int | None = None,
        now: float | None = None,
    ) -> Found:
        """The entries of a layer that answer queries best, for each kv head by itself.

        Entries are ranked by inner product plus the logarithm of their strength; where there is
        an index, over its 4 * ``nearest`` (at least 8) best of each query. The ``nearest`` best
        of every query are joined without duplicates: every query's best comes before any
        query's second, and the better comes first inside of a rank. A writer notes for each of
        them that it was retrieved, and strengthens it as the policy says.

        Args:
          layer: index of the layer.
          queries: (Q, G, P), scaled as they are to be multiplied.
          nearest: entries of each query.
          limit: entries of all queries.
          source: only entries of this source count.
          exclude_source: entries of this source do not count.
          exclude_after_position: entries at later positions do not count: those of
            ``exclude_source`` if it is given (then its others count), else of every source.
          now: seconds since 1970; None: the time of the call.
        """
        now = time.time() if now is None else float(now)
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 3 or queries.shape[1:] != self._shape:
            raise ValueError(
                f"queries: have shape {queries.shape}; give (queries, {self._shape[0]}, "
                f"{self._shape[1]})"
            )
        if not np.isfinite(queries).all():
            raise ValueError("queries: are infinite or not numbers somewhere")
        if nearest < 1 or limit < 1:
            raise ValueError(f"nearest {nearest}, limit {limit}: give 1 or more of each")
        with self._caller:
            self._ready()
            view = self._view
            with view.lock:
                resident = view.layer(layer)
                request = Request(
                    nearest,
                    limit,
                    view.clock,
                    now,
                    None if source is None else view.sources.get(source, -1),
                    None if exclude_source is None else view.sources.get(exclude_source, -1),
                    exclude_after_position,
                )
                found = retrieve(resident, view.rows, self.policy, request, queries)
                if self._writer is not None:
                    self._touch(layer, np.unique(found.id[found.id >= 0]), now)
            if self._writer is not None and len(self._touches) >= TOUCHES:
                self._write_touches(self._writer)
        return found

    def look_up(
        self,
        layer: int,
        queries: np.ndarray,
        *,
        nearest: int,
        taken: np.ndarray | None = None,
        trail: Trail | None = None,
        first: int = 0,
        now: float | None = None,
    ) -> Looked:
        """Let tokens take entries in turn, each the best that none before it has taken.

        Entries are ranked as by :meth:`search`, and retrieved entries are noted as there.

        Args:
          layer: index of the layer.
          queries: (n, G, h, P) of n tokens, h queries for each kv head, scaled as they are to be
            multiplied.
          nearest: entries that a token may take for each kv head.
          taken: ids that nobody may take (c, G); None: there are none.
          trail: of the layer in this stream; only entries on it are taken. None: any is.
          first: position of the first token, for the trail.
          now: seconds since 1970; None: the time of the call.
        """
        now = time.time() if now is None else float(now)
        if taken is None:
            taken = np.zeros((0, self._shape[0]), np.int64)
        with self._caller:
            self._ready()
            view = self._view
            with view.lock:
                request = Request(nearest, 1, view.clock, now)
                found = look_up(
                    view.layer(layer),
                    view.rows,
                    self.policy,
                    request,
                    queries,
                    taken,
                    trail,
                    first,
                )
                if self._writer is not None:
                    self._touch(layer, np.unique(found.id[found.id >= 0]), now)
            if self._writer is not None and len(self._touches) >= TOUCHES:
                self._write_touches(self._writer)
        return found

    def _touch(self, layer: int, ids: np.ndarray, now: float) -> None:
        strength = self._view.touch(layer, ids, self.policy, now)
        for number, new in zip(ids.tolist(), strength.tolist(), strict=True):
            uses = self._touches.get(number, (0,))[0] + 1
            self._touches[number] = (uses, now, new, self._view.clock)

    def _write_touches(self, writer: Writer) -> None:
        if self._touches:
            rows = [(number, *rest) for number, rest in self._touches.items()]
            self._touches = {}
            writer.submit(Touch(rows))

    def _enforce(self, layer: int, slack: int, now: float) -> None:
        """Forget the weakest entries of a layer that holds too many."""
        capacity = self.policy.capacity
        with self._view.lock:
            resident = self._view.layers[layer]
            if capacity is None or len(resident) <= capacity + slack:
                return
            excess = len(resident) - capacity
            ids = resident.weakest(excess, self.policy, self._view.clock, now)
        self._remove(ids)

    def _remove(self, ids: np.ndarray) -> None:
        with self._view.lock:
            for resident in self._view.layers.values():
                resident.remove(ids)
        for number in ids.tolist():
            self._touches.pop(number, None)
        self._writing().submit(Forget(ids.tolist()))

    def forget(self, ids: Collection[int]) -> int:
        """Delete entries; readers no longer see them once this is published.

        Returns:
          How many of them there were.
        """
        with self._caller:
            self._writing()
            wanted = np.unique(np.fromiter(ids, np.int64, len(ids)))
            with self._view.lock:
                places = [layer.places(wanted) >= 0 for layer in self._view.layers.values()]
            there = wanted[np.any(places, axis=0)]
            if len(there):
                self._remove(there)
            return len(there)

    def compact(
        self,
        progress: Callable[[int], None] | None = None,
        threads: int = 1,
        now: float | None = None,
    ) -> int:
        """Forget what the policy gives up, and make rows and indexes as small as they can be.

        Args:
          progress: is told how many entries of a head were indexed, of heads * entries in
            layers that have more than ``exact_below``.
          threads: that build indexes; with more than one they differ from time to time.
          now: seconds since 1970; None: the time of the call.

        Returns:
          How many entries were forgotten.
        """
        with self._caller:
            writer, view = self._writing(), self._view
            now = time.time() if now is None else float(now)
            before = len(self)
            for resident in view.layers.values():
                with view.lock:
                    log = resident.log_strength(self.policy, slice(None), view.clock, now)
                    weak = resident.column("id")[np.exp(log) < self.policy.floor]
                if len(weak):
                    self._remove(weak)
            self.publish(now)
            told = progress or (lambda count: None)
            writer.finish(Call(lambda _: self._upkeep.renew(writer.commit, told, threads)))
            return before - len(self)

    def flush(self) -> None:
        """Wait until the disk has all that was written, as :meth:`publish` does."""
        self.publish()

    def close(self) -> None:
        """Publish what was written, and let other writers in."""
        with self._caller:
            if self._closed:
                return
            try:
                if self._writer is not None:
                    self.publish()
            finally:
                self._closed = True
                self._view.rows.close()
                if self._writer is not None:
                    self._writer.close()
                if self._file_lock is not None:
                    self._file_lock.release()

    def _ready(self) -> None:
        """Be open and, as a reader, up to date."""
        if self._closed:
            raise ValueError(f"{self.path}: the store was closed")
        if self._writer is None:
            self._view.refresh()
        else:
            self._writer.raise_error()

    def _writing(self) -> Writer:
        if self._closed:
            raise ValueError(f"{self.path}: the store was closed")
        if self._writer is None:
            raise UserError(
                f"{self.path}: the store was opened for reading; open it with write=True"
            )
        self._writer.raise_error()
        return self._writer
