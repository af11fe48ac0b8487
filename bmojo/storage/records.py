"""Reports of a store's rows: single entries, selections, counts."""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError, suggestion
from bmojo.storage.database import Database
from bmojo.storage.description import Description
from bmojo.storage.entries import Record

__all__ = ["Records"]


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
        rows = self.rows
        row = rows.execute(
            "SELECT id, layer, source, position, token, innovation, born, written, uses, "
            "CASE WHEN uses > 0 THEN time END, context, log_strength, clock, time, key "
            "FROM entries WHERE id = ?",
            (number,),
        ).fetchone()
        if row is None:
            raise UserError(f"{self.path}: has no entry {number}; bmojo memory search shows some")
        *facts, context, log, clock, when, key = row
        left = self.description.policy.decayed(log, clock, when, self.clock, time.time())
        facts += [np.frombuffer(context, "<i4"), math.exp(left), rows.arrays([key])[0]]
        values: Any = (*facts, rows.values([number])[number])
        return Record(*values)

    def contexts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Ids of all entries, rising, and their contexts, (c,), int32."""
        cursor = self.rows.execute("SELECT id, context FROM entries ORDER BY id")
        for number, context in cursor:
            yield number, np.frombuffer(context, "<i4")

    def select(self, source: str | None = None, older_than: float | None = None) -> list[int]:
        """Ids of entries: of one source, written longer ago than so many seconds.

        Raises:
          UserError: there is no such source.
        """
        known = self.sources
        if source is not None and source not in known:
            raise UserError(f"{self.path}: has no source {source!r}; {suggestion(source, known)}")
        cursor = self.rows.execute(
            "SELECT id FROM entries WHERE (?1 IS NULL OR source = ?1) "
            "AND (?2 IS NULL OR written < ?2) ORDER BY id",
            (source, None if older_than is None else time.time() - older_than),
        )
        return [number for (number,) in cursor]

    def stats(self) -> dict[str, Any]:
        """Counts, sizes, and ages of the oldest and newest entry in tokens and in seconds."""
        rows, now, clock = self.rows, time.time(), self.clock
        layers = {}
        with rows.snapshot():
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
