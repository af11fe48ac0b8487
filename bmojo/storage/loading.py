"""From the files of a store to what a process keeps of it in memory."""

import logging
from pathlib import Path

import numpy as np

from bmojo.errors import UserError
from bmojo.storage.database import Database
from bmojo.storage.index import DamagedIndex, OpenSegment, have_usearch, refuse_without_usearch
from bmojo.storage.resident import Resident
from bmojo.storage.segments import Segment

__all__ = ["follow", "load"]

logger = logging.getLogger(__name__)


def load(
    database: Database,
    layer: int,
    segments: list[Segment],
    index: Path,
    shape: tuple[int, int],
    exact_below: int,
    lenient: bool = True,
) -> Resident:
    """Read a layer.

    Args:
      database: the rows; a snapshot of them, if another process writes.
      layer: index of the layer.
      segments: its segments.
      index: the directory of their files.
      shape: kv heads and width.
      exact_below: as many entries are searched without the package for indexes.
      lenient: whether entries of a damaged segment and of those after it become part of the
        tail.

    Raises:
      UserError: rows are damaged, or the package is missing.
      DamagedIndex: a segment is damaged, unless ``lenient``.
    """
    result = Resident(shape)
    columns = database.columns(layer, -1)
    if not have_usearch():
        if len(columns) > exact_below:
            refuse_without_usearch(index.parent, exact_below)
        segments = []
    for segment in segments:
        try:
            result.segments.append(OpenSegment(segment, index, shape[1]))
        except DamagedIndex as error:
            if not lenient:
                raise
            logger.warning("%s: %s; searching without it", index, error)
            break
    result.append(columns, *_whole(database, layer, result.covered, columns["id"], shape))
    return result


def follow(
    result: Resident,
    database: Database,
    layer: int,
    segments: list[Segment],
    index: Path,
    shape: tuple[int, int],
) -> None:
    """Take over what another process has written to a layer since.

    Raises:
      DamagedIndex: a segment is damaged, or gone by now.
    """
    columns = database.columns(layer, result.last)
    if len(columns):
        result.append(columns, *_whole(database, layer, result.last, columns["id"], shape))
    there = {opened.segment.name: opened for opened in result.segments}
    if [segment.name for segment in segments] == list(there):
        return
    result.segments = [
        there.get(segment.name) or OpenSegment(segment, index, shape[1]) for segment in segments
    ]
    result.cut()


def _whole(
    database: Database, layer: int, after: int, ids: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of entries with larger ids than ``after``."""
    wanted = ids[ids > after]
    parts = [np.zeros((0, 2, *shape), np.float32)]
    found = [np.zeros(0, np.int64)]
    if len(wanted):
        for numbers, arrays in database.keys(layer, int(wanted[0]), int(wanted[-1]), shape):
            found.append(numbers)
            parts.append(arrays)
    if not np.array_equal(np.concatenate(found), wanted):
        raise UserError(
            f"{database.path}: entries of layer {layer} are damaged; bmojo memory verify names them"
        )
    both = np.concatenate(parts)
    return both[:, 0], both[:, 1]
