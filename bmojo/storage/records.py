"""Reports of a store's rows: single entries, selections, counts."""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError, suggestion
from bmojo.storage.database import FIXED, Database, intact
from bmojo.storage.description import Description
from bmojo.storage.entries import Record

__all__ = ["Records"]

LATEST = 2.0**36
"""Seconds since 1970 that a calendar still holds."""


@dataclasses.dataclass(frozen=True)
class Records:
    """The rows of a store, whose sources have numbers, at a clock."""

    path: Path
    description: Description
    rows: Database
    sources: dict[str, int]
    clock: int

    def __getitem__(self, number: int) -> Record:
        """One entry; a UserError if there is none of this number, or it is damaged."""
        query = f"SELECT {FIXED}, checksum, uses, log_strength, clock, time FROM entries "
        with self.rows.naming_damage():
            row = self.rows.execute(query + "WHERE id = ?", (str(number),)).fetchone()
            if row is None:
                reason = f"has no entry {number}; bmojo memory search shows some"
                raise UserError(f"{self.path}: {reason}")
            *fixed, crc, uses, log, clock, when = row
            if not (intact(fixed, crc) and uses >= 0 and abs(when) < LATEST):
                raise ValueError("damaged")
            left = self.description.policy.decayed(log, clock, when, self.clock, time.time())
            *facts, context, key, value = fixed
            known: dict[str, Any] = dict(zip(FIXED.split(", "), facts, strict=False))
            known |= {"context": np.frombuffer(context, "<i4"), "strength": math.exp(left)}
            known |= {"uses": uses, "used": when if uses else None}
            key, value = self.rows.arrays([key, value])
            return Record(**known, key=key, value=value)

    def contexts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Ids of all entries, rising, and their contexts, (c,), int32."""
        with self.rows.naming_damage():
            cursor = self.rows.execute(f"SELECT {FIXED}, checksum FROM entries ORDER BY id")
            for *row, crc in cursor:
                if not intact(row, crc):
                    raise ValueError("damaged")
                yield row[0], np.frombuffer(row[8], "<i4")

    def select(self, source: str | None = None, older_than: float | None = None) -> list[int]:
        """Ids of entries: of one source, written longer ago than so many seconds.

        Raises:
          UserError: there is no such source.
        """
        known = self.sources
        if source is not None and source not in known:
            raise UserError(f"{self.path}: has no source {source!r}; {suggestion(source, known)}")
        query = (
            "SELECT id FROM entries WHERE (?1 IS NULL OR source = ?1) "
            "AND (?2 IS NULL OR written < ?2) ORDER BY id"
        )
        since = None if older_than is None else time.time() - older_than
        with self.rows.naming_damage():
            return [number for (number,) in self.rows.execute(query, (source, since))]

    def stats(self) -> dict[str, Any]:
        """Counts, sizes, and ages of the oldest and newest entry in tokens and in seconds."""
        rows, now, clock = self.rows, time.time(), self.clock
        layers = {}
        with rows.naming_damage(), rows.snapshot():
            found = rows.execute(
                "SELECT layer, count(*), sum(uses), min(innovation), max(innovation), min(born), "
                "max(born), min(written), max(written) FROM entries GROUP BY layer"
            ).fetchall()
            sources = rows.execute(
                "SELECT source, count(*) FROM entries GROUP BY source ORDER BY min(id)"
            ).fetchall()
            empty = [(layer, 0, 0, *[None] * 6) for layer in self.description.identity.layers]
            for layer, count, uses, low, high, first, last, oldest, newest in empty + found:
                layers[layer] = {
                    "layer": layer,
                    "entries": count,
                    "uses": uses,
                    "innovation": [low, high] if count else None,
                    "age_tokens": [clock - first, clock - last] if count else None,
                    "age_seconds": [now - oldest, now - newest] if count else None,
                }
        return {
            "path": str(self.path),
            "entries": sum(layer["entries"] for layer in layers.values()),
            "clock": clock,
            "bytes": sum(path.stat().st_size for path in self.path.glob("entries.sqlite*")),
            "layers": list(layers.values()),
            "sources": dict(sources),
        } | dataclasses.asdict(self.description)
