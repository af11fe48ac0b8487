"""Whether a store is as it was written."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bmojo.storage.database import Database, checksum
from bmojo.storage.index import DamagedIndex, OpenSegment, have_usearch
from bmojo.storage.layout import Layout
from bmojo.storage.segments import Segment

__all__ = ["size", "verify"]

ROWS = (
    "SELECT e.id, layer, source, position, token, innovation, born, written, context, checksum, "
    "data FROM entries e LEFT JOIN payloads p ON p.id = e.id ORDER BY e.id"
)
SHOWN = 100
"""Damaged entries that are named."""


def size(directory: str | os.PathLike[str]) -> int:
    """How much :func:`verify` will tell: entries, and heads of segments.

    Raises:
      UserError: there is no store, or its rows cannot be opened.
    """
    layout = Layout(directory)
    rows = Database(layout.rows, False, layout.read().dtype)
    try:
        entries = rows.execute("SELECT count(*) FROM entries").fetchone()[0]
        return int(entries) + sum(len(segment.files) for segment in rows.segments())
    except sqlite3.Error:
        return 0
    finally:
        rows.close()


def verify(
    directory: str | os.PathLike[str], progress: Callable[[int], None] = lambda count: None
) -> list[str]:
    """Compare all of a store with its checksums, and its indexes with its rows.

    What is published while this goes on is not seen.

    Args:
      directory: of the store.
      progress: is told how much of :func:`size` is done.

    Returns:
      What is wrong, a line for each; empty if nothing is.

    Raises:
      UserError: there is no store, or its rows cannot be opened.
    """
    layout = Layout(directory)
    there = layout.read()
    rows = Database(layout.rows, False, there.dtype)
    problems: list[str] = []
    try:
        with _snapshot(rows):
            problems += _structure(rows)
            ids, damaged = _entries(rows, there.identity.layers, progress)
            problems += damaged[:SHOWN]
            if len(damaged) > SHOWN:
                problems.append(f"{layout.rows.name}: {len(damaged) - SHOWN} more are damaged")
            problems += _counters(rows, ids)
            for layer in there.identity.layers:
                problems += _segments(
                    rows, layer, ids[layer], layout.index, there.identity.width, progress
                )
    except sqlite3.Error as error:
        problems.append(f"{layout.rows.name}: cannot be read any further ({error})")
    finally:
        with contextlib.suppress(sqlite3.Error):
            rows.close()
    return problems


@contextlib.contextmanager
def _snapshot(rows: Database) -> Iterator[None]:
    rows.execute("BEGIN")
    yield  # closing ends it, and a damaged database may not be able to


def _structure(rows: Database) -> list[str]:
    name = rows.path.name
    found = [line for (line,) in rows.execute("PRAGMA integrity_check(20)")]
    problems = [f"{name}: {line}" for line in found if line != "ok"]
    lone = rows.execute(
        "SELECT count(*) FROM payloads WHERE id NOT IN (SELECT id FROM entries)"
    ).fetchone()[0]
    if lone:
        problems.append(f"{name}: {lone} keys and values belong to no entry")
    nameless = rows.execute(
        "SELECT count(*) FROM entries WHERE source NOT IN (SELECT id FROM sources)"
    ).fetchone()[0]
    if nameless:
        problems.append(f"{name}: {nameless} entries have a source without a name")
    return problems


def _entries(
    rows: Database, layers: tuple[int, ...], progress: Callable[[int], None]
) -> tuple[dict[int, np.ndarray], list[str]]:
    """Ids of each layer, rising, and what is wrong with entries."""
    name = rows.path.name
    ids: dict[int, list[int]] = {layer: [] for layer in layers}
    problems = []
    cursor = rows.execute(ROWS)
    while block := cursor.fetchmany(1024):
        for *head, context, crc, data in block:
            number, layer = head[:2]
            if layer in ids:
                ids[layer].append(number)
            else:
                problems.append(f"{name}: entry {number} is of layer {layer}, which is not stored")
            if data is None:
                problems.append(f"{name}: entry {number} has no key and value")
            elif not _fits(head, context, data, crc):
                problems.append(f"{name}: entry {number} has changed since it was written")
        progress(len(block))
    return {layer: np.array(numbers, np.int64) for layer, numbers in ids.items()}, problems


def _fits(head: list, context: bytes, data: bytes, crc: int) -> bool:
    try:
        return checksum(head, context, data) == crc
    except Exception:  # a number of another type or size than was written
        return False


def _counters(rows: Database, ids: dict[int, np.ndarray]) -> list[str]:
    last = max((int(numbers[-1]) for numbers in ids.values() if len(numbers)), default=-1)
    if last < rows.counter("next_id"):
        return []
    return [f"{rows.path.name}: entry {last} is there, though fewer were published"]


def _segments(
    rows: Database,
    layer: int,
    ids: np.ndarray,
    directory: Path,
    width: int,
    progress: Callable[[int], None],
) -> list[str]:
    """What is wrong with the index of a layer."""
    problems, end = [], -1
    for segment in (s for s in rows.segments() if s.layer == layer):
        if segment.first <= end:
            problems.append(f"index {segment.name}: overlaps the one before")
        missed = ids[(ids > end) & (ids < segment.first)]
        if len(missed):
            problems.append(
                f"index {segment.name}: {len(missed)} entries before it are in no index"
            )
        end = segment.last
        inside = ids[(ids >= segment.first) & (ids <= segment.last)]
        problem = segment.problem(directory) or _graph(segment, inside, directory, width)
        if problem is not None and _still(rows, segment):
            problems.append(f"index: {problem}; opening the store for writing makes it anew")
        progress(len(segment.files))
    return problems


def _still(rows: Database, segment: Segment) -> bool:
    """Whether a segment counts by now; a writer may have replaced it and its files."""
    newest = Database(rows.path, False, rows.dtype.name)
    try:
        return segment.name in {there.name for there in newest.segments()}
    finally:
        newest.close()


def _graph(segment: Segment, ids: np.ndarray, directory: Path, width: int) -> str | None:
    """What is wrong with the graphs of a segment whose files are whole."""
    if len(ids) > segment.count:
        return f"{segment.name}: holds {segment.count} of {len(ids)} entries"
    if not have_usearch():
        return None
    try:
        opened = OpenSegment(segment, directory, width, checked=True)
    except DamagedIndex as error:
        return str(error)
    for head in range(len(segment.files)):
        missing = ids[~opened.contains(head, ids)] if len(ids) else ids
        if len(missing):
            return f"{segment.path(directory, head).name}: misses entry {missing[0]}"
    return None
