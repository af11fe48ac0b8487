"""The rows of a store, in SQLite: what was written, and all that is needed to find it again.

A transaction that is committed is published; the rows are the truth, indexes follow from them.
Every method runs in the transaction of its caller.
"""

import contextlib
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.storage.entries import Entries
from bmojo.storage.segments import Segment

__all__ = ["COLUMNS", "Database", "checksum", "payload"]

SCHEMA = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE entries (
  id INTEGER PRIMARY KEY, layer INTEGER NOT NULL, source INTEGER NOT NULL,
  position INTEGER NOT NULL, token INTEGER NOT NULL, innovation REAL NOT NULL,
  born INTEGER NOT NULL, written REAL NOT NULL, context BLOB NOT NULL,
  checksum INTEGER NOT NULL,
  uses INTEGER NOT NULL DEFAULT 0, used REAL, strength REAL, clock INTEGER,
  touched INTEGER NOT NULL DEFAULT 0);
CREATE TABLE payloads (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE forgotten (id INTEGER PRIMARY KEY, publication INTEGER NOT NULL);
CREATE TABLE segments (
  name TEXT PRIMARY KEY, layer INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  count INTEGER NOT NULL, files TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX entries_by_layer ON entries (layer, id);
CREATE INDEX entries_touched ON entries (touched) WHERE touched > 0;
CREATE INDEX forgotten_by_publication ON forgotten (publication);
"""
COUNTERS = ("next_id", "clock", "publication", "epoch", "segment")
"""The next entry's id; tokens processed; commits; compactions; the next segment's number."""

ROW = struct.Struct("<qqqqqdqd")
COLUMNS = np.dtype(
    [
        ("id", np.int64),
        ("strength", np.float64),
        ("clock", np.int64),
        ("time", np.float64),
        ("position", np.int64),
        ("source", np.int64),
        ("innovation", np.float32),
    ]
)
"""What a process keeps of every entry."""
SELECT_COLUMNS = (
    "id, coalesce(strength, 1.0), coalesce(clock, born), coalesce(used, written), position, "
    "source, innovation"
)
PATIENCE_SECONDS = 60
MANY = 500
"""Ids in one query."""


def payload(key: np.ndarray, value: np.ndarray, dtype: np.dtype) -> bytes:
    """Key and value of one entry as they lie on disk."""
    return key.astype(dtype).tobytes() + value.astype(dtype).tobytes()


def checksum(row: Sequence[Any], context: bytes, data: bytes) -> int:
    """CRC-32 of what never changes of an entry.

    Args:
      row: id, layer, source, position, token, innovation, born, written.
      context: its ids as bytes.
      data: key and value as bytes.
    """
    return zlib.crc32(data, zlib.crc32(context, zlib.crc32(ROW.pack(*row))))


class Database:
    """The SQLite file of a store.

    Args:
      path: of the file.
      write: whether it is written to; then it is made if it is missing.
      dtype: of keys and values in it.

    Raises:
      UserError: it cannot be opened, or is no database.
    """

    def __init__(self, path: Path, write: bool, dtype: str):
        self.path = path
        self.dtype = np.dtype(dtype).newbyteorder("<")
        try:
            self._connection = self._connect(write)
        except sqlite3.Error as error:
            raise UserError(
                f"{path}: cannot be opened as the rows of a store ({error}); see to the rights of "
                "the directory, or put the file back"
            ) from None

    def _connect(self, write: bool) -> sqlite3.Connection:
        if write:
            made = self._open(f"{self.path.as_uri()}?mode=rwc")
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("PRAGMA synchronous = FULL")
            made.execute("BEGIN IMMEDIATE")
            if not made.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in SCHEMA.split(";"):
                    made.execute(statement)
                made.executemany("INSERT INTO counters VALUES (?, 0)", [(n,) for n in COUNTERS])
            made.execute("COMMIT")
            return made
        try:
            made = self._open(f"{self.path.as_uri()}?mode=ro")
            made.execute("SELECT value FROM counters").fetchone()
        except sqlite3.OperationalError:
            # No right to make the files that readers and a writer share: nobody writes either.
            log = self.path.with_name(self.path.name + "-wal")
            if log.exists() and log.stat().st_size:
                raise
            made = self._open(f"{self.path.as_uri()}?mode=ro&immutable=1")
            made.execute("SELECT value FROM counters").fetchone()
        return made

    @staticmethod
    def _open(uri: str) -> sqlite3.Connection:
        return sqlite3.connect(
            uri, uri=True, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
        )

    def close(self) -> None:
        """Close the file; the last one to do so, if it may write, leaves all in one file."""
        self._connection.close()

    def shrink(self) -> None:
        """Give back the space of what was deleted, as far as readers let it go."""
        self.execute("VACUUM")
        self.execute("PRAGMA busy_timeout = 1000")
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.execute(f"PRAGMA busy_timeout = {PATIENCE_SECONDS * 1000}")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(statement, values)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            self.execute("COMMIT")

    def begin(self) -> None:
        """Begin to write, unless it was begun."""
        if not self._connection.in_transaction:
            self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Publish what was written."""
        if self._connection.in_transaction:
            self.execute("UPDATE counters SET value = value + 1 WHERE name = 'publication'")
            self.execute("COMMIT")

    def data_version(self) -> int:
        """Another number once another connection has committed."""
        return int(self.execute("PRAGMA data_version").fetchone()[0])

    def counter(self, name: str) -> int:
        """One of the counters."""
        return int(self.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()[0])

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter."""
        self.execute("UPDATE counters SET value = ? WHERE name = ?", (value, name))

    def sources(self) -> dict[str, int]:
        """Numbers of all sources."""
        return {name: number for number, name in self.execute("SELECT id, name FROM sources")}

    def add_source(self, number: int, name: str) -> None:
        """Give a source its number."""
        self.execute("INSERT INTO sources VALUES (?, ?)", (number, name))

    def insert(
        self, first: int, layer: int, entries: Entries, source: int, born: int, written: float
    ) -> None:
        """Write entries with the ids from ``first`` on."""
        rows, payloads = [], []
        data = np.concatenate(
            [x.reshape(len(entries), -1) for x in (entries.key, entries.value)], axis=1
        ).astype(self.dtype)
        context = entries.context.astype("<i4")
        columns = (entries.position, entries.token, entries.innovation)
        facts = zip(*(column.tolist() for column in columns), strict=True)
        for place, (position, token, innovation) in enumerate(facts):
            number = first + place
            head = (number, layer, source, position, token, innovation, born, written)
            ids = context[place]
            words, content = ids[ids >= 0].tobytes(), data[place].tobytes()
            rows.append((*head, words, checksum(head, words, content)))
            payloads.append((number, content))
        self._connection.executemany(
            "INSERT INTO entries (id, layer, source, position, token, innovation, born, written, "
            "context, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._connection.executemany("INSERT INTO payloads VALUES (?, ?)", payloads)

    def forget(self, ids: Sequence[int]) -> None:
        """Delete entries."""
        publication = self.counter("publication") + 1
        numbers = [(number,) for number in ids]
        self._connection.executemany("DELETE FROM entries WHERE id = ?", numbers)
        self._connection.executemany("DELETE FROM payloads WHERE id = ?", numbers)
        self._connection.executemany(
            "INSERT OR IGNORE INTO forgotten VALUES (?, ?)", [(n, publication) for n in ids]
        )

    def touch(self, rows: Sequence[tuple[int, int, float, float, int]]) -> None:
        """Write down retrievals: id, further uses, when, strength then, the clock then."""
        publication = self.counter("publication") + 1
        self._connection.executemany(
            "UPDATE entries SET uses = uses + ?2, used = ?3, strength = ?4, clock = ?5, "
            f"touched = {publication} WHERE id = ?1",
            rows,
        )

    def columns(self, layer: int, after: int) -> np.ndarray:
        """What a process keeps of the entries of a layer with larger ids, rising."""
        cursor = self.execute(
            f"SELECT {SELECT_COLUMNS} FROM entries WHERE layer = ? AND id > ? ORDER BY id",
            (layer, after),
        )
        return np.fromiter(cursor, COLUMNS)

    def touched(self, after: int) -> np.ndarray:
        """The same of entries that were retrieved in later publications."""
        cursor = self.execute(
            f"SELECT {SELECT_COLUMNS} FROM entries WHERE touched > ?", (max(after, 0),)
        )
        return np.fromiter(cursor, COLUMNS)

    def forgotten(self, after: int) -> np.ndarray:
        """Ids that were forgotten in later publications."""
        cursor = self.execute("SELECT id FROM forgotten WHERE publication > ?", (after,))
        return np.array([number for (number,) in cursor], np.int64)

    def payloads(self, ids: Sequence[int], shape: tuple[int, int]) -> dict[int, np.ndarray]:
        """Keys and values of entries, (2, G, P) each, as far as they are there.

        Raises:
          UserError: an entry has another size.
        """
        result = {}
        for start in range(0, len(ids), MANY):
            part = ids[start : start + MANY]
            marks = ",".join("?" * len(part))
            query = f"SELECT id, data FROM payloads WHERE id IN ({marks})"
            for number, data in self.execute(query, part):
                result[number] = self._array(number, data, shape)
        return result

    def keys(
        self, layer: int, first: int, last: int, shape: tuple[int, int], head: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids (n,) and payloads (n, 2, G, P), or keys (n, P) of one head, in rising order."""
        after = first - 1
        while True:
            rows = self.execute(
                "SELECT id, data FROM entries JOIN payloads USING (id) "
                "WHERE layer = ? AND id > ? AND id <= ? ORDER BY id LIMIT 512",
                (layer, after, last),
            ).fetchall()
            if not rows:
                return
            arrays = [self._array(number, data, shape) for number, data in rows]
            if head is not None:
                arrays = [array[0, head] for array in arrays]
            yield np.array([number for number, _ in rows], np.int64), np.stack(arrays)
            after = rows[-1][0]

    def _array(self, number: int, data: bytes, shape: tuple[int, int]) -> np.ndarray:
        if len(data) != 2 * shape[0] * shape[1] * self.dtype.itemsize:
            raise UserError(
                f"{self.path}: entry {number} is damaged; bmojo memory verify names all that are"
            )
        return np.frombuffer(data, self.dtype).reshape(2, *shape).astype(np.float32)

    def segments(self) -> list[Segment]:
        """All index segments, by layer and first id."""
        rows = self.execute(
            "SELECT name, layer, first, last, count, files FROM segments ORDER BY layer, first"
        )
        return [Segment.from_row(row) for row in rows]

    def replace_segments(self, gone: Sequence[str], new: Segment | None) -> None:
        """Enter an index segment instead of others."""
        for name in gone:
            self.execute("DELETE FROM segments WHERE name = ?", (name,))
        if new is not None:
            self.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", new.to_row())
