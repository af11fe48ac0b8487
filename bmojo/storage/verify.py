"""Verification: all rows of a store compared with the checksums that were written."""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from bmojo.storage.database import FIXED, NAME, Database, intact
from bmojo.storage.description import Description

__all__ = ["size", "verify"]

SHOWN = 100
"""Damaged entries that are named."""


def _open(directory: str | os.PathLike[str]) -> tuple[Database, tuple[int, ...]]:
    path = Path(directory).expanduser().absolute()
    there = Description.read(path)
    return Database(path, False, there.shape), there.identity.layers


def size(directory: str | os.PathLike[str]) -> int:
    """The number of entries that :func:`verify` will read; raises what it raises."""
    with contextlib.closing(_open(directory)[0]) as rows, contextlib.suppress(sqlite3.Error):
        return rows.counters()["entries"]
    return 0


def verify(
    directory: str | os.PathLike[str], progress: Callable[[int], None] = lambda count: None
) -> list[str]:
    """Compare all of a store with its checksums.

    Publications that come meanwhile are not seen. ``progress`` is called with numbers of entries
    of those that :func:`size` counts.

    Returns:
      What is wrong, a line for each.

    Raises:
      UserError: there is no store, or its rows cannot be opened.
    """
    rows, layers = _open(directory)
    problems: list[str] = []
    try:
        with rows.snapshot():
            found = [line for (line,) in rows.execute("PRAGMA integrity_check(20)")]
            problems += [f"{NAME}: {line}" for line in found if line != "ok"]
            problems += _entries(rows, layers, progress)
    except sqlite3.Error as error:
        problems.append(f"{NAME}: cannot be read any further ({error})")
    finally:
        with contextlib.suppress(sqlite3.Error):
            rows.close()
    return problems


def _entries(rows: Database, layers: tuple[int, ...], progress: Callable[[int], None]) -> list[str]:
    problems, count, last = [], 0, -1
    cursor = rows.execute(f"SELECT {FIXED}, checksum FROM entries ORDER BY id")
    while block := cursor.fetchmany(1024):
        for *row, crc in block:
            if row[1] not in layers:
                problems.append(f"entry {row[0]} is of layer {row[1]}, which is not stored")
            elif not intact(row, crc):
                problems.append(f"entry {row[0]} has changed since it was written")
        count, last = count + len(block), block[-1][0]
        progress(len(block))
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"{len(problems) - SHOWN} more are damaged"]
    counters = rows.counters()
    if count != counters["entries"]:
        problems.append(f"{count} entries are there, though {counters['entries']} were published")
    if last >= counters["next_id"]:
        problems.append(f"entry {last} is there, though fewer were published")
    return [f"{NAME}: {problem}" for problem in problems]
