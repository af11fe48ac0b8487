"""The rows of a store in SQLite: one table. A transaction that is committed is published."""

import contextlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError, first_line
from bmojo.storage.entries import Entries
from bmojo.storage.key_matrix import COLUMNS

__all__ = ["FIXED", "NAME", "Database", "checksum", "intact"]

NAME = "entries.sqlite"
SCHEMA = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
  id INTEGER PRIMARY KEY, layer INTEGER NOT NULL, position INTEGER NOT NULL,
  token INTEGER NOT NULL, innovation REAL NOT NULL, born INTEGER NOT NULL, written REAL NOT NULL,
  source TEXT NOT NULL, checksum INTEGER NOT NULL, uses INTEGER NOT NULL DEFAULT 0,
  log_strength REAL NOT NULL DEFAULT 0, clock INTEGER NOT NULL, time REAL NOT NULL,
  touched INTEGER NOT NULL DEFAULT 0,
  context BLOB NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL);
CREATE INDEX entries_touched ON entries (touched) WHERE touched > 0;
"""
COUNTERS = ("next_id", "entries", "clock", "publication", "deletion")
"""The next entry's id; entries; tokens processed; commits; commits that deleted entries."""
FIXED = "id, layer, position, token, innovation, born, written, source, context, key, value"
"""Columns that never change. ``clock`` and ``time`` are those of the last retrieval, or else of
writing: ``log_strength`` is the logarithm of strength then."""
ROW = struct.Struct("<qqqqdqd")
PATIENCE_SECONDS = 60


def checksum(row: Sequence[Any]) -> int:
    """CRC-32 of the columns FIXED of an entry."""
    crc = zlib.crc32(ROW.pack(*row[:7]))
    for part in (row[7].encode(), *row[8:]):
        crc = zlib.crc32(part, crc)
    return crc


def intact(row: Sequence[Any], crc: int) -> bool:
    """Whether the columns FIXED of an entry are those of its checksum."""
    try:
        return checksum(row) == crc
    except Exception:  # a number of another type or size than was written
        return False


class Database:
    """The SQLite file of a store; made if it is missing and is to be written to.

    Keys and values have the shape (kv heads, width). A UserError if it is no database.
    """

    def __init__(self, directory: Path, write: bool, shape: tuple[int, int]):
        self.path, self._shape = directory / NAME, shape
        log = directory / f"{NAME}-wal"
        try:
            self._connect("rwc" if write else "ro")
            if write:
                self._make()
            try:
                self.counters()
            except sqlite3.OperationalError:
                # No right to make the files that readers and a writer share: nobody writes either.
                if write or (log.exists() and log.stat().st_size):
                    raise
                self._connect("ro&immutable=1")
                self.counters()
            tables = self.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
            if {sql for (sql,) in tables} != {s.strip() for s in SCHEMA.split(";")} - {""}:
                raise sqlite3.DatabaseError("its tables are not those of a store")
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be opened as the rows of a store ({first_line(error)}); see "
                "to the rights of the directory, or put the file back"
            ) from None

    def _connect(self, mode: str) -> None:
        name = f"{self.path.as_uri()}?mode={mode}"
        self._connection = sqlite3.connect(
            name, PATIENCE_SECONDS, isolation_level="IMMEDIATE", check_same_thread=False, uri=True
        )
        self.execute = self._connection.execute
        self.execute("PRAGMA trusted_schema = OFF")
        self.execute("PRAGMA cell_size_check = ON")
        self._published = self._connection.total_changes

    def _make(self) -> None:
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = FULL")
        self.execute("BEGIN IMMEDIATE")
        if not self.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in SCHEMA.split(";"):
                self.execute(statement)
            for name in COUNTERS:
                self.execute("INSERT INTO counters VALUES (?, 0)", (name,))
        self.execute("COMMIT")

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Turn the errors of damaged rows into a UserError."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError):
            raise UserError(
                f"{self.path}: entries are damaged; bmojo memory verify names them"
            ) from None

    def close(self) -> None:
        """Close the file; the last one to do so, if it may write, leaves all in one file."""
        self._connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the rows inside: a published one, or that of the open transaction."""
        if self._connection.in_transaction:
            yield
            return
        self.execute("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):  # a damaged database may not be able to
                self.execute("COMMIT")

    @property
    def pending(self) -> int:
        """Rows that were written and are not published."""
        return self._connection.total_changes - self._published

    def commit(self) -> None:
        """Publish what was written."""
        if self._connection.in_transaction:
            self._count("publication")
            self.execute("COMMIT")
        self._published = self._connection.total_changes

    def shrink(self) -> None:
        """Publish, and give back the space of deleted rows as far as readers let it go."""
        self.commit()
        self.execute("VACUUM")
        self.execute("PRAGMA busy_timeout = 1000")
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.execute(f"PRAGMA busy_timeout = {PATIENCE_SECONDS * 1000}")

    def counters(self) -> dict[str, int]:
        """All counters; an sqlite3.Error if one is damaged."""
        found = dict(self.execute("SELECT name, value FROM counters").fetchall())
        if found.keys() != set(COUNTERS) or not all(isinstance(n, int) for n in found.values()):
            raise sqlite3.DatabaseError("its counters are damaged")
        return found

    def _count(self, name: str, number: int = 1) -> None:
        self.execute("UPDATE counters SET value = value + ? WHERE name = ?", (number, name))

    def set_clock(self, tokens: int) -> None:
        """Set the number of tokens processed."""
        self.execute("UPDATE counters SET value = max(value, ?) WHERE name = 'clock'", (tokens,))

    def insert(self, layer: int, entries: Entries, source: str, born: int, written: float) -> int:
        """Write entries; the id of the first, behind which those of the others follow."""
        rows, first = [], self.counters()["next_id"]
        facts = [x.tolist() for x in (entries.position, entries.token, entries.innovation)]
        arrays = [x.astype("<f4") for x in (entries.key, entries.value)]
        contexts = [x[x >= 0].astype("<i4") for x in entries.context]
        for number, (*fact, context, key, value) in enumerate(
            zip(*facts, contexts, *arrays, strict=True), first
        ):
            row = (number, layer, *fact, born, written, source)
            row = (*row, context.tobytes(), key.tobytes(), value.tobytes())
            rows.append((*row, checksum(row), born, written))
        self._count("next_id", len(rows))
        self._count("entries", len(rows))
        self.set_clock(born)
        self._connection.executemany(
            f"INSERT INTO entries ({FIXED}, checksum, clock, time) "
            f"VALUES ({', '.join('?' * len(rows[0]))})",
            rows,
        )
        return first

    def forget(self, ids: Sequence[int]) -> None:
        """Delete entries that are there."""
        self._count("entries", -len(ids))
        self._count("deletion")
        self._connection.executemany("DELETE FROM entries WHERE id = ?", [(n,) for n in ids])

    def touch(self, rows: Sequence[tuple[int, int, float, int, float]]) -> None:
        """Write retrievals: id, further uses, logarithm of strength, clock, time."""
        self._connection.executemany(
            "UPDATE entries SET uses = uses + ?2, log_strength = ?3, clock = ?4, time = ?5, "
            f"touched = {self.counters()['publication'] + 1} WHERE id = ?1",
            rows,
        )

    def load(
        self, after: int, sources: dict[str, int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """Layer (n,), key (n, G, P), COLUMNS (n,) of entries after an id; sources get numbers."""
        query = f"SELECT layer, key, {', '.join(COLUMNS)} FROM entries WHERE id > ? ORDER BY id"
        cursor = self.execute(query, (after,))
        while rows := cursor.fetchmany(4096):
            layer, key, *facts = zip(*rows, strict=True)
            columns = dict(zip(COLUMNS, map(list, facts), strict=True))
            for row, name in enumerate(columns["source"]):
                if not isinstance(name, str):
                    raise TypeError("a source that is no text")
                columns["source"][row] = sources.setdefault(name, len(sources) + 1)
            arrays = {name: np.array(columns[name], COLUMNS[name]) for name in COLUMNS}
            yield np.array(layer), self.arrays(key), arrays

    def ids(self) -> np.ndarray:
        """Ids of all entries, rising."""
        return np.array([n for (n,) in self.execute("SELECT id FROM entries ORDER BY id")], int)

    def touched(self, after: int) -> dict[str, np.ndarray]:
        """Id, strength, clock and time of entries that were retrieved in later publications."""
        names = ["id", "log_strength", "clock", "time"]
        query = f"SELECT {', '.join(names)} FROM entries WHERE touched > 0 AND touched > ?"
        found = np.array(self.execute(query, (max(after, 0),)).fetchall(), object).reshape(-1, 4)
        return {name: found[:, i].astype(COLUMNS[name]) for i, name in enumerate(names)}

    def values(self, ids: Sequence[int]) -> dict[int, np.ndarray]:
        """Values of entries, (G, P) each; a UserError if one is damaged."""
        query = "SELECT id, value FROM entries WHERE id IN (SELECT value FROM json_each(?))"
        with self.naming_damage():
            found = dict(self.execute(query, (json.dumps(list(ids)),)).fetchall())
            return dict(zip(ids, self.arrays([found[number] for number in ids]), strict=True))

    def arrays(self, blobs: Sequence[bytes]) -> np.ndarray:
        """Keys or values (n, G, P), float32; ValueError if one has another size."""
        if any(len(blob) != 4 * self._shape[0] * self._shape[1] for blob in blobs):
            raise ValueError("a key or a value of another size")
        data = np.frombuffer(b"".join(blobs), "<f4")
        return data.reshape(len(blobs), *self._shape).astype(np.float32)
