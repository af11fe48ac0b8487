"""Approximate search of maximum inner products: HNSW graphs of usearch, one for each kv head.

A graph lies in a file, from which pages are read as a search needs them. It compares by inner
product itself, which was measured against two ways to make keys equally long, the 8 best of each
query being looked for among 30,000 keys of width 16, with 32 links and 128 candidates:

    keys                                 inner product   graph by distance   graph by angle
    log-normal norms, sigma 0.5                  100 %                30 %             70 %
    1024 clusters, such norms of centres         100 %                50 %             74 %

(graphs by distance and angle were searched by inner product). Among 100,000 keys in clusters 87 %
were found with 128 candidates, 93 % with 256, 95 % with 512: so the number of candidates grows
with that of entries. Norms that differ much make it hard; equal ones are easy.
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.storage.database import Database
from bmojo.storage.layout import sync_directory
from bmojo.storage.segments import Segment, Work, file_checksum

__all__ = [
    "DamagedIndex",
    "OpenSegment",
    "build",
    "have_usearch",
    "refuse_without_usearch",
    "remove_others",
]

CONNECTIVITY = 32
EXPANSION_ADD = 128
EXPANSION_SEARCH = (128, 512)
"""Candidates of a search: the first number up to EXPANSION_COUNT entries, then as the root of their
number, up to the second."""
EXPANSION_COUNT = 32768
THREADS = os.cpu_count() or 1
"""That search; what each query finds does not depend on them."""
STEP = 128
"""Entries added to a graph between two looks at other work."""


class DamagedIndex(Exception):
    """A file of an index is missing or not as it was written."""


def have_usearch() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("usearch") is not None


def refuse_without_usearch(path: Path, exact_below: int) -> None:
    """See that an index can be made.

    Raises:
      UserError: the package is missing.
    """
    if not have_usearch():
        raise UserError(
            f"{path}: more than {exact_below:,} entries of a layer need an index, and the package "
            "usearch is not installed; pip install 'bmojo[storage]', or raise exact_below"
        )


def _graph(width: int) -> Any:
    module = importlib.import_module("usearch.index")
    return module.Index(
        ndim=width,
        metric="ip",
        dtype="f32",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH[0],
    )


class OpenSegment:
    """A segment whose files are mapped into memory.

    Args:
      segment: what was written.
      directory: of its files.
      width: of a head.
      checked: whether the files are known to be whole; otherwise they are read and compared
        with their checksums first, as a damaged graph must not be walked.

    Raises:
      DamagedIndex: a file is missing or damaged; the message says which.
    """

    def __init__(self, segment: Segment, directory: Path, width: int, checked: bool = False):
        problem = None if checked else segment.problem(directory)
        if problem is not None:
            raise DamagedIndex(problem)
        self.segment = segment
        self._graphs = []
        for head in range(len(segment.files)):
            graph = _graph(width)
            try:
                graph.view(str(segment.path(directory, head)))
            except RuntimeError as error:
                raise DamagedIndex(f"{segment.path(directory, head).name}: {error}") from None
            self._graphs.append(graph)

    def search(self, head: int, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Entries with large inner products.

        Args:
          head: the kv head.
          queries: (Q, P).
          count: of entries for each query.

        Returns:
          Ids (Q, count), -1 where there are fewer, and inner products (Q, count).
        """
        graph = self._graphs[head]
        count = min(count, self.segment.count)
        least, most = EXPANSION_SEARCH
        wide = least * math.sqrt(self.segment.count / EXPANSION_COUNT)
        graph.expansion_search = max(round(min(max(wide, least), most)), 2 * count)
        # One query alone would come back in another shape.
        asked = np.repeat(queries, 2, axis=0) if len(queries) == 1 else queries
        matches = graph.search(asked, count, threads=THREADS)
        vacant = np.arange(count) >= matches.counts[:, None]
        ids = np.where(vacant, -1, matches.keys.astype(np.int64))
        scores = np.where(vacant, -np.inf, 1 - matches.distances).astype(np.float32)
        return ids[: len(queries)], scores[: len(queries)]

    def contains(self, head: int, ids: np.ndarray) -> np.ndarray:
        """Whether each of some ids is in the graph of a head."""
        return np.asarray(self._graphs[head].contains(ids.astype(np.uint64)))


def build(
    database: Database,
    work: Work,
    directory: Path,
    name: str,
    shape: tuple[int, int],
    threads: int,
) -> Generator[int, None, Segment | None]:
    """Make a segment from rows, some entries at each step; it is not entered yet.

    Args:
      database: its rows.
      work: what is to be made.
      directory: for its files.
      name: of the segment.
      shape: kv heads and width.
      threads: that add to a graph. With one, the same rows make the same files.

    Yields:
      How many entries of a head were added.

    Returns:
      The segment, or None: there are no entries.
    """
    directory.mkdir(exist_ok=True)
    files, count = [], 0
    for head in range(shape[0]):
        graph = _graph(shape[1])
        if work.base is not None:
            graph.load(str(work.base.path(directory, head)))
        first = work.first if work.base is None else work.base.last + 1
        for ids, keys in database.keys(work.layer, first, work.last, shape, head):
            for start in range(0, len(ids), STEP):
                part = slice(start, start + STEP)
                graph.add(ids[part].astype(np.uint64), keys[part], threads=threads)
                yield len(ids[part])
        if not len(graph):
            return None
        path = directory / f"{name}-{head}.usearch"
        graph.save(str(path))
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        files.append((path.stat().st_size, file_checksum(path)))
        count = len(graph)
        del graph
    sync_directory(directory)
    return Segment(name, work.layer, work.first, work.last, count, tuple(files))


def remove_others(directory: Path, segments: Sequence[Segment]) -> None:
    """Delete files in the directory of indexes that belong to no segment."""
    known = {s.path(directory, head).name for s in segments for head in range(len(s.files))}
    for path in directory.glob("*.usearch"):
        if path.name not in known:
            path.unlink(missing_ok=True)
