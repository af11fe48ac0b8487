"""What a store holds, for people: single entries, selections, counts. Published entries only."""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bmojo.errors import UserError, suggestion
from bmojo.storage.entries import Record
from bmojo.storage.layout import Layout
from bmojo.storage.policy import Policy
from bmojo.storage.view import View

__all__ = ["Records"]


@dataclasses.dataclass(frozen=True)
class Records:
    """The rows of a store.

    Attributes:
      layout: of the store.
      view: what this process sees of it.
      policy: decides what age does.
    """

    layout: Layout
    view: View
    policy: Policy

    def __getitem__(self, number: int) -> Record:
        """All of an entry.

        Raises:
          UserError: there is none of this number, or it is damaged.
        """
        rows = self.view.rows
        row = rows.execute(
            "SELECT e.id, layer, s.name, position, token, innovation, born, written, "
            "uses, used, context, coalesce(strength, 1.0), coalesce(clock, born), "
            "coalesce(used, written) "
            "FROM entries e LEFT JOIN sources s ON s.id = e.source WHERE e.id = ?",
            (number,),
        ).fetchone()
        if row is None:
            raise UserError(
                f"{self.layout.path}: has no entry {number}; bmojo memory search shows some"
            )
        *head, context, strength, then, when = row
        left = self.policy.log_strength(
            np.array(strength), np.array(then), np.array(when), self.view.clock, time.time()
        )
        data = rows.payloads([number], self.view.shape).get(number)
        if data is None:
            raise UserError(
                f"{rows.path}: entry {number} is damaged; bmojo memory verify names all that are"
            )
        ids = np.frombuffer(context, "<i4")
        values: tuple[Any, ...] = (*head, ids, math.exp(left), data[0], data[1])
        return Record(*values)

    def contexts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Ids of all entries, rising, and their contexts, (c,), int32."""
        cursor = self.view.rows.execute("SELECT id, context FROM entries ORDER BY id")
        for number, context in cursor:
            yield number, np.frombuffer(context, "<i4")

    def select(
        self, source: str | None = None, older_than: float | None = None, now: float | None = None
    ) -> list[int]:
        """Ids of entries.

        Args:
          source: only of this one.
          older_than: only written longer ago than so many seconds.
          now: seconds since 1970; None: the time of the call.

        Raises:
          UserError: there is no such source.
        """
        known = self.view.sources
        if source is not None and source not in known:
            raise UserError(
                f"{self.layout.path}: has no source {source!r}; {suggestion(source, known)}"
            )
        now = time.time() if now is None else now
        before = None if older_than is None else now - older_than
        cursor = self.view.rows.execute(
            "SELECT id FROM entries WHERE (?1 IS NULL OR source = ?1) "
            "AND (?2 IS NULL OR written < ?2) ORDER BY id",
            (None if source is None else known[source], before),
        )
        return [number for (number,) in cursor]

    def stats(self) -> dict[str, Any]:
        """Counts, sizes and ages, as plain values.

        Ages are those of the oldest and of the newest entry, in tokens of the store's clock and
        in seconds.
        """
        rows, there, now = self.view.rows, self.layout.read().to_json(), time.time()
        with rows.snapshot():
            layers = [self._layer(layer, now) for layer in there["identity"]["layers"]]
            sources = rows.execute(
                "SELECT s.name, count(e.id) FROM sources s JOIN entries e ON e.source = s.id "
                "GROUP BY s.id ORDER BY s.id"
            ).fetchall()
        return {
            "path": str(self.layout.path),
            "entries": sum(layer["entries"] for layer in layers),
            "clock": self.view.clock,
            "bytes": self.layout.bytes(),
            "layers": layers,
            "sources": dict(sources),
            "policy": there["policy"],
            "dtype": there["dtype"],
            "identity": there["identity"],
        }

    def _layer(self, layer: int, now: float) -> dict[str, Any]:
        rows = self.view.rows
        count, low, high, first, last, oldest, newest, uses = rows.execute(
            "SELECT count(*), min(innovation), max(innovation), min(born), max(born), "
            "min(written), max(written), coalesce(sum(uses), 0) FROM entries WHERE layer = ?",
            (layer,),
        ).fetchone()
        clock = self.view.clock
        return {
            "layer": layer,
            "entries": count,
            "indexed": sum(s.count for s in rows.segments() if s.layer == layer),
            "uses": uses,
            "innovation": [low, high] if count else None,
            "age_tokens": [clock - first, clock - last] if count else None,
            "age_seconds": [now - oldest, now - newest] if count else None,
        }
