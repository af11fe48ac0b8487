"""A store of entries on disk: written by one process, read by any number of them."""

import contextlib
import dataclasses
import os
import socket
import sqlite3
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

__all__ = ["Store", "WriteError", "writer_lock"]

TOUCHES = 4096
"""Entries whose retrievals are remembered before they are written."""
PUBLISH_ROWS, PUBLISH_SECONDS = 8192, 5.0
"""A call that writes publishes if so many rows are not, or so long after the last publication."""


class WriteError(UserError):
    """A store cannot be written."""

    exit_code = 4


class Store:
    """Entries of the layers of one model, on disk; made by :meth:`open`.

    A writer finds at once what it has written, a reader what was published. An error of the disk
    is raised by all later calls, too. A store is used by one thread at a time.

    Attributes:
      path: of the directory.
      identity: of the model that the store belongs to.
      policy: bounds of the store.
      clock: tokens processed, the store's measure of age.
    """

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        identity: Identity | None = None,
        policy: Policy | None = None,
        *,
        write: bool,
    ) -> "Store":
        """Open a store, or make one.

        Args:
          directory: of the store.
          identity: of the model that is to use it; None opens that of any model.
          policy: replaces the one that is saved there; None keeps it. Only with ``write``.
          write: whether it is written to, by this process alone; then it is made if it is not
            there. Otherwise the last published state is read, whoever writes.

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
                held.enter_context(writer_lock(path))
                if identity is not None and not Description.claim(path):
                    new = Description(identity, policy or Policy())
                    Database(path, True, new.shape).close()
                    new.write(path)
            there = Description.read(path)
            if identity is not None:
                there.identity.require(identity, path)
            if write and policy not in (None, there.policy):
                there = dataclasses.replace(there, policy=policy)
                there.write(path)
            rows = held.enter_context(contextlib.closing(Database(path, write, there.shape)))
            store = cls(path, there, write, rows)
            with rows.snapshot():
                store._refresh()
            store._held = held.pop_all()
            return store

    def __init__(self, path: Path, description: Description, write: bool, rows: Database):
        self.path, self._description, self._rows = path, description, rows
        self.identity, self.policy = description.identity, description.policy
        self._shape, self._write, self._closed = description.shape, write, False
        self._held = contextlib.ExitStack()
        self._error: WriteError | None = None
        self._published = time.monotonic()
        self._touches: dict[int, tuple[int, float, int, float]] = {}
        self._sources: dict[str, int] = {}
        """Numbers of sources in this process."""
        self._layers = {x: KeyMatrix(*self._shape, self.policy) for x in self.identity.layers}
        self.clock, self._version, self._last = 0, None, -1
        self._counters = {"publication": 0, "deletion": 0}

    @property
    def records(self) -> Records:
        """Reports of the published rows."""
        with self._reading():
            return Records(self.path, self._description, self._rows, self._sources, self.clock)

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

    def write(self, layer: int, entries: Entries, source: str) -> None:
        """Add entries of a layer, from the text called ``source``.

        Raises:
          ValueError: shapes are not those of the store.
          UserError: the store was opened for reading.
        """
        with self._writing() as rows:
            matrix, now = self._layer(layer), time.time()
            if not len(entries):
                return
            if entries.key.shape[1:] != self._shape:
                raise ValueError(
                    f"Entries.key: has shape {entries.key.shape}; the store holds "
                    f"(n, {self._shape[0]}, {self._shape[1]})"
                )
            first = rows.insert(layer, entries, source, self.clock, now)
            matrix.append(
                entries.key,
                id=np.arange(first, first + len(entries)),
                log_strength=0.0,
                clock=self.clock,
                time=now,
                position=entries.position,
                source=self._sources.setdefault(source, len(self._sources) + 1),
                innovation=entries.innovation,
            )
            if self.policy.capacity is not None:
                self._enforce(layer, max(256, self.policy.capacity // 8))

    def advance(self, tokens: int) -> None:
        """Let the store's clock go on by so many tokens."""
        with self._writing():
            if tokens < 0:
                raise ValueError(f"tokens: {tokens} is negative; the clock goes forward")
            self.clock += tokens

    def publish(self) -> None:
        """Forget entries beyond the capacity; make all durable, and seen by readers."""
        with self._writing() as rows:
            for layer in self._layers:
                self._enforce(layer, 0)
            self._write_touches()
            rows.set_clock(self.clock)
            rows.commit()

    def assign(
        self,
        layer: int,
        queries: np.ndarray,
        *,
        nearest: int,
        taken: np.ndarray | None = None,
        alignment: Alignment | None = None,
        first: int = 0,
    ) -> Found:
        """Assign entries to tokens in turn: to each the best that none before it has taken.

        All entries are ranked, for each kv head by itself, by inner product plus the logarithm of
        their strength; of equal ones the older is better. A writer notes of each that it was
        retrieved, and reinforces it as the policy says.

        Args:
          layer: index of the layer.
          queries: (n, G, h, P) of n tokens, h queries for each kv head, scaled as they are to be
            multiplied.
          nearest: entries that a token may take for each kv head.
          taken: ids that no token may take (G, c). None: there are none.
          alignment: of the layer in this stream; only entries on its lines are taken. None: any.
          first: position of the first token, for the alignment.

        Returns:
          For each kv head ``nearest`` places for the first token, then those of the second, ...

        Raises:
          ValueError: shapes are not those of the store.
        """
        heads, width = self._shape
        if queries.ndim != 4 or (queries.shape[1], queries.shape[3]) != self._shape:
            raise ValueError(f"queries: have shape {queries.shape}; give (n, {heads}, h, {width})")
        taken = np.zeros((heads, 0), np.int64) if taken is None else taken
        with self._reading():
            matrix, now = self._layer(layer), time.time()
            bias = matrix.log_strength(self.clock, now)
            place = assign(matrix, bias, queries, nearest, taken, alignment, first)
            there = place >= 0
            head, some = np.nonzero(there)[0], place[there]
            ids = matrix.column("id")[some]
            wanted = np.unique(ids).tolist()
            values = self._rows.values(wanted)
            key, value = np.zeros((2, *place.shape, width), np.float32)
            found = Found(key, value, np.full(place.shape, -1))
            if wanted:
                pairs = list(zip(head.tolist(), some.tolist(), ids.tolist(), strict=True))
                key[there] = [matrix.keys[h][row] for h, row, _ in pairs]
                value[there] = [values[number][h] for h, _, number in pairs]
                found.id[there] = ids
            if self._write:
                retrieved = np.array(wanted, np.int64)
                log = matrix.touch(retrieved, bias[matrix.places(retrieved)], self.clock, now)
                for number, new in zip(wanted, log.tolist(), strict=True):
                    uses = self._touches.get(number, (0,))[0] + 1
                    self._touches[number] = (uses, new, self.clock, now)
                if len(self._touches) >= TOUCHES:
                    self._write_touches()
            return found

    def _write_touches(self) -> None:
        with self._writing() as rows:
            rows.touch([(number, *rest) for number, rest in self._touches.items()])
            self._touches = {}

    def _enforce(self, layer: int, slack: int) -> None:
        """Forget the weakest entries of a layer that holds too many, in the policy's order."""
        capacity, matrix = self.policy.capacity, self._layers[layer]
        if capacity is not None and len(matrix) > capacity + slack:
            ids, innovation = matrix.column("id"), matrix.column("innovation")
            weakest = np.lexsort((ids, innovation, matrix.log_strength(self.clock, time.time())))
            self.forget(ids[weakest[: len(ids) - capacity]].tolist())

    def forget(self, ids: Collection[int]) -> int:
        """Delete those of the entries that are there, and count them; published later."""
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

    def compact(self) -> int:
        """Forget the entries below the policy's floor, count them, and shrink the file."""
        with self._writing() as rows:
            before = len(self)
            for matrix in self._layers.values():
                weak = np.exp(matrix.log_strength(self.clock, time.time())) < self.policy.floor
                self.forget(matrix.column("id")[weak].tolist())
            self.publish()
            rows.shrink()
            return before - len(self)

    def close(self) -> None:
        """Publish what was written, and let other writers in."""
        if self._closed:
            return
        with self._held:
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
        with self._rows.naming_damage():
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
        self.clock, self._counters, self._version = counters["clock"], counters, version

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """The store is open; a reader is up to date, and reads one state of the rows."""
        self._require_open()
        if self._write:
            yield
            return
        with self._rows.snapshot():
            self._refresh()
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Database]:
        """The store is open for writing; what is written inside is published in time."""
        self._require_open()
        if not self._write:
            raise UserError(
                f"{self.path}: the store was opened for reading; open it with write=True"
            )
        try:
            yield self._rows
            late = time.monotonic() - self._published >= PUBLISH_SECONDS
            if self._rows.pending >= (1 if late else PUBLISH_ROWS):
                self._rows.commit()
            if not self._rows.pending:
                self._published = time.monotonic()
        except (sqlite3.Error, OSError) as error:
            self._error = WriteError(
                f"{self.path}: the store cannot be written ({error}); see to space and rights "
                "there, and to the rows with bmojo memory verify"
            )
            raise self._error from error

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.path}: the store was closed")
        if self._error is not None:
            raise self._error


@contextlib.contextmanager
def writer_lock(path: Path) -> Iterator[None]:
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
