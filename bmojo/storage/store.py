"""A store of entries on disk: written by one process, read by any number of them."""

import contextlib
import dataclasses
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from bmojo.errors import UserError
from bmojo.files import file_lock
from bmojo.storage.alignment import Alignment
from bmojo.storage.assignment import assign
from bmojo.storage.database import Database
from bmojo.storage.description import Description, Identity
from bmojo.storage.entries import Entries, Found
from bmojo.storage.key_matrix import KeyMatrix
from bmojo.storage.policy import Policy
from bmojo.storage.records import Records
from bmojo.storage.search import merge, search

__all__ = ["Store", "WriteError"]

TOUCHES = 4096
"""Entries whose retrievals are remembered before they are written."""
PUBLISH_ROWS = 8192
PUBLISH_SECONDS = 5.0
"""So many rows that are written are published at once, all others after some time."""


class WriteError(UserError):
    """A store cannot be written."""

    exit_code = 4


class Store:
    """Entries of the layers of one model, on disk; made by :meth:`open`.

    A writer finds at once what it has written, a reader what was published. Calls may come from
    several threads; they are done one after another. An error of the disk is raised by all later
    calls, too. The argument ``now`` of methods is seconds since 1970; None: the time of the call.

    Attributes:
      path: of the directory.
      identity: of the model that the store belongs to.
      policy: bounds of the store.
      dtype: of keys and values on disk.
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
          synchronous: whether nothing is published by time, in a thread. Then the same calls give
            the same files.
          dtype: of keys and values on disk, for a new store: "float32" (the default, nothing is
            lost) or "float16" (half the space).

        Raises:
          UserError: there is no store, or no place for one; another process writes to it; it
            belongs to another model; its files cannot be read.
        """
        path = Path(directory).expanduser().absolute()
        with contextlib.ExitStack() as held:
            if write:
                if identity is None:
                    Description.read(path)  # says that there is none
                Description.claim(path)
                held.enter_context(_writer_lock(path))
                if identity is not None and not Description.claim(path):
                    new = Description(identity, policy or Policy(), dtype or "float32")
                    Database(path, True, new.shape, new.dtype).close()
                    new.write(path)
            there = Description.read(path)
            if identity is not None:
                there.identity.require(identity, path)
            if write and policy not in (None, there.policy):
                there = dataclasses.replace(there, policy=policy)
                there.write(path)
            return cls(path, there, write, synchronous, held.pop_all())

    def __init__(
        self,
        path: Path,
        description: Description,
        write: bool,
        synchronous: bool,
        held: contextlib.ExitStack,
    ):
        self.path, self._description, self._held = path, description, held
        self.identity, self.policy = description.identity, description.policy
        self.dtype, self._shape = description.dtype, description.shape
        self._write, self._synchronous = write, synchronous
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._error: WriteError | None = None
        self._closed = False
        self._touches: dict[int, tuple[int, float, int, float]] = {}
        self._sources: dict[str, int] = {}
        """Numbers of sources in this process."""
        self._layers = {x: KeyMatrix(*self._shape, self.policy) for x in self.identity.layers}
        self._clock, self._version, self._last = 0, None, -1
        self._counters = {"publication": 0, "deletion": 0}
        with contextlib.ExitStack() as stack:
            stack.enter_context(held)
            self._rows = Database(path, write, self._shape, self.dtype)
            stack.callback(self._rows.close)
            with self._rows.snapshot():
                self._refresh()
            stack.pop_all()

    @property
    def clock(self) -> int:
        """Tokens processed, the store's measure of age."""
        return self._clock

    @property
    def records(self) -> Records:
        """Reports of the published rows."""
        with self._reading():
            return Records(self.path, self._description, self._rows, self._sources, self._clock)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Entries of all layers."""
        return sum(map(len, self._layers.values()))

    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def count(self, layer: int) -> int:
        """Entries of a layer."""
        return len(self._layer(layer))

    def write(self, layer: int, entries: Entries, source: str, now: float | None = None) -> None:
        """Add entries.

        Args:
          layer: index of the layer.
          entries: to be written.
          source: name of the text that they come from.
          now: the time.

        Raises:
          ValueError: shapes are not those of the store, or float16 cannot hold the numbers.
          UserError: the store was opened for reading.
        """
        seconds = _seconds(now)
        with self._writing() as rows:
            matrix = self._layer(layer)
            if not len(entries):
                return
            kept = entries.rounded(self._shape, self.dtype)
            first = rows.insert(layer, kept, source, self._clock, seconds)
            matrix.append(
                kept.key,
                id=np.arange(first, first + len(kept)),
                log_strength=0.0,
                clock=self._clock,
                time=seconds,
                position=entries.position,
                source=self._sources.setdefault(source, len(self._sources) + 1),
                innovation=entries.innovation,
            )
            if self.policy.capacity is not None:
                self._enforce(layer, max(256, self.policy.capacity // 8), seconds)

    def advance(self, tokens: int) -> None:
        """Let the store's clock go on by so many tokens."""
        with self._writing():
            if tokens < 0:
                raise ValueError(f"tokens: {tokens} is negative; the clock goes forward")
            self._clock += tokens

    def publish(self, now: float | None = None) -> None:
        """Make all that was written durable, and seen by readers.

        Entries beyond the policy's capacity are forgotten before.
        """
        with self._writing() as rows:
            for layer in self._layers:
                self._enforce(layer, 0, _seconds(now))
            self._write_touches()
            rows.set_clock(self._clock)
            rows.commit()

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
        """Search a layer for the entries that answer queries best, for each kv head by itself.

        All entries are ranked by inner product plus the logarithm of their strength. The
        ``nearest`` best of every query are joined without duplicates: every query's best comes
        before any query's second, and the better comes first inside of a rank. A writer notes for
        each of them that it was retrieved, and reinforces it as the policy says.

        Args:
          layer: index of the layer.
          queries: (Q, G, P), scaled as they are to be multiplied.
          nearest: entries of each query.
          limit: entries of all queries.
          source: only entries of this source count.
          exclude_source: entries of this source do not count.
          exclude_after_position: entries at later positions do not count: those of
            ``exclude_source`` if it is given (then its others count), else of every source.
          now: the time.
        """
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
        with self._reading():
            matrix, known = self._layer(layer), self._sources.get
            number = matrix.column("source")
            out = np.zeros(len(matrix), bool)
            if exclude_after_position is not None:
                out = matrix.column("position") > exclude_after_position
            if exclude_source is not None:
                excluded = number == known(exclude_source, -1)
                out = excluded if exclude_after_position is None else out & excluded
            if source is not None:
                out = out | (number != known(source, -1))
            bias = np.where(out, -np.inf, matrix.log_strength(self.clock, _seconds(now)))
            found = search(matrix, bias, queries, nearest)
            place, score = np.full((2, self._shape[0], limit), -1.0)
            for head in range(self._shape[0]):
                chosen = merge(found.place[head], found.rank[head])[:limit]
                place[head, : len(chosen)] = found.place[head].reshape(-1)[chosen]
                score[head, : len(chosen)] = found.score[head].reshape(-1)[chosen]
            return self._retrieve(matrix, place.astype(np.int64), score, _seconds(now))

    def assign(
        self,
        layer: int,
        queries: np.ndarray,
        *,
        nearest: int,
        taken: np.ndarray | None = None,
        alignment: Alignment | None = None,
        first: int = 0,
        now: float | None = None,
    ) -> Found:
        """Assign entries to tokens in turn: to each the best that none before it has taken.

        Entries are ranked as by :meth:`search`, and retrieved entries are noted as there.

        Args:
          layer: index of the layer.
          queries: (n, G, h, P) of n tokens, h queries for each kv head, scaled as they are to be
            multiplied.
          nearest: entries that a token may take for each kv head.
          taken: ids that no token may take (G, c). None: there are none.
          alignment: of the layer in this stream; only entries on its lines are taken. None: any.
          first: position of the first token, for the alignment.
          now: the time.

        Returns:
          For each kv head ``nearest`` places for the first token, then those of the second, ...
        """
        taken = np.zeros((self._shape[0], 0), np.int64) if taken is None else taken
        with self._reading():
            matrix = self._layer(layer)
            bias = matrix.log_strength(self.clock, _seconds(now))
            found = assign(matrix, bias, queries, nearest, taken, alignment, first)
            return self._retrieve(matrix, *found, _seconds(now))

    def _retrieve(
        self, matrix: KeyMatrix, place: np.ndarray, score: np.ndarray, now: float
    ) -> Found:
        """The entries at places (G, m), -1 where vacant; a writer notes the retrieval."""
        there = place >= 0
        head, some = np.nonzero(there)[0], place[there]
        ids = matrix.column("id")[some]
        wanted = np.unique(ids).tolist()
        values = self._rows.values(wanted)
        shape = (*place.shape, self._shape[1])
        found = Found(
            key=np.zeros(shape, np.float32),
            value=np.zeros(shape, np.float32),
            id=np.full(place.shape, -1),
            score=np.where(there, score, -np.inf).astype(np.float32),
            strength=np.zeros(place.shape, np.float32),
        )
        if wanted:
            pairs = list(zip(head.tolist(), some.tolist(), ids.tolist(), strict=True))
            found.key[there] = [matrix.keys[h][row] for h, row, _ in pairs]
            found.value[there] = [values[number][h] for h, _, number in pairs]
            found.id[there] = ids
            found.strength[there] = np.exp(matrix.log_strength(self.clock, now, some))
        if self._write:
            log = matrix.touch(np.array(wanted, np.int64), self._clock, now)
            for number, new in zip(wanted, log.tolist(), strict=True):
                uses = self._touches.get(number, (0,))[0] + 1
                self._touches[number] = (uses, new, self._clock, now)
            if len(self._touches) >= TOUCHES:
                self._write_touches()
        return found

    def _write_touches(self) -> None:
        with self._writing() as rows:
            rows.touch([(number, *rest) for number, rest in self._touches.items()])
            self._touches = {}

    def _enforce(self, layer: int, slack: int, now: float) -> None:
        """Forget the weakest entries of a layer that holds too many.

        Of equally strong ones the least surprising go, of these the oldest.
        """
        capacity, matrix = self.policy.capacity, self._layers[layer]
        if capacity is not None and len(matrix) > capacity + slack:
            ids, innovation = matrix.column("id"), matrix.column("innovation")
            weakest = np.lexsort((ids, innovation, matrix.log_strength(self.clock, now)))
            self.forget(ids[weakest[: len(ids) - capacity]].tolist())

    def forget(self, ids: Collection[int]) -> int:
        """Delete entries; readers no longer see them once this is published.

        Returns:
          How many of them there were.
        """
        gone: list[int] = []
        with self._writing() as rows:
            for matrix in self._layers.values():
                out = np.isin(matrix.column("id"), list(ids))
                gone += matrix.column("id")[out].tolist()
                matrix.keep(~out)
            for number in gone:
                self._touches.pop(number, None)
            if gone:
                rows.forget(gone)
        return len(gone)

    def compact(self, now: float | None = None) -> int:
        """Forget the entries below the policy's floor, and make the file as small as it can be.

        Returns:
          How many entries were forgotten.
        """
        with self._writing() as rows:
            before = len(self)
            for matrix in self._layers.values():
                weak = np.exp(matrix.log_strength(self.clock, _seconds(now))) < self.policy.floor
                self.forget(matrix.column("id")[weak].tolist())
            self.publish(now)
            rows.shrink()
            return before - len(self)

    def close(self) -> None:
        """Publish what was written, and let other writers in."""
        with self._lock:
            if self._closed:
                return
            if self._timer is not None:
                self._timer.cancel()
            with self._held, contextlib.closing(self._rows):
                try:
                    if self._write:
                        self.publish()
                finally:
                    self._closed = True

    def _layer(self, number: int) -> KeyMatrix:
        if number not in self._layers:
            raise ValueError(
                f"layer: {number} has no entries in {self.path}; it holds those of layers "
                f"{', '.join(map(str, self._layers))}"
            )
        return self._layers[number]

    def _refresh(self) -> None:
        """Take over what another process has published; inside of a snapshot of the rows."""
        version = self._rows.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        try:
            counters = self._rows.counters()
            if counters["deletion"] != self._counters["deletion"]:
                ids = self._rows.ids()
                for matrix in self._layers.values():
                    matrix.keep(np.isin(matrix.column("id"), ids, assume_unique=True))
            touched = self._rows.touched(self._counters["publication"])
            for matrix in self._layers.values():
                matrix.update(touched["id"], **touched)
            for layer, key, columns in self._rows.load(self._last, self._sources):
                for number, matrix in self._layers.items():
                    mine = layer == number
                    matrix.append(key[mine], **{name: x[mine] for name, x in columns.items()})
                self._last = int(columns["id"][-1])
        except (ValueError, TypeError, sqlite3.Error):
            raise UserError(
                f"{self._rows.path}: entries are damaged; bmojo memory verify names them"
            ) from None
        self._clock, self._counters, self._version = counters["clock"], counters, version

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """The store is open; a reader is up to date, and reads one state of the rows."""
        with self._lock:
            self._require_open()
            if self._write:
                yield
                return
            with self._rows.snapshot():
                self._refresh()
                yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Database]:
        """The store is open for writing; what is written inside is published in some seconds."""
        with self._lock:
            self._require_open()
            if not self._write:
                raise UserError(
                    f"{self.path}: the store was opened for reading; open it with write=True"
                )
            try:
                yield self._rows
                if self._rows.pending >= PUBLISH_ROWS:
                    self._rows.commit()
                elif self._rows.pending and not (self._synchronous or self._timer):
                    self._timer = threading.Timer(PUBLISH_SECONDS, self._publish_late)
                    self._timer.daemon = True
                    self._timer.start()
            except (sqlite3.Error, OSError) as error:
                self._error = WriteError(
                    f"{self.path}: the store cannot be written ({error}); see to space and rights "
                    "there, and to the rows with bmojo memory verify"
                )
                raise self._error from error

    def _publish_late(self) -> None:
        # An error is raised by the next call.
        with self._lock, contextlib.suppress(UserError, ValueError):
            self._timer = None
            with self._writing() as rows:
                rows.commit()

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.path}: the store was closed")
        if self._error is not None:
            raise self._error


def _seconds(now: float | None) -> float:
    return time.time() if now is None else float(now)


@contextlib.contextmanager
def _writer_lock(path: Path) -> Iterator[None]:
    """Keep other writers out of a store; a UserError if that cannot be."""
    file = path / "writer.lock"
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(file_lock(file))
        except BlockingIOError:
            holder = file.read_text(encoding="utf8").strip() or "another process"
            raise UserError(
                f"{path}: {holder} writes to this store; wait until it has ended, or open the "
                "store for reading"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: the store cannot be written ({error.strerror}); open it for reading, or "
                "see to the rights of the directory"
            ) from None
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield
