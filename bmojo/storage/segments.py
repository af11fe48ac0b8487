"""Index segments: which entries an index file holds, and when segments are joined."""

import dataclasses
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Segment", "Work", "file_checksum", "next_work"]

FOLD = 16
"""A segment is joined with newer ones that have at least a 16th of its entries.

Adding an entry to a graph costs some hundred times what copying it to another file costs, so
that large segments may be written again for few new entries."""
DEAD = 0.25
"""A segment of which more than this part is forgotten is built anew."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """An index over the entries of a layer whose ids lie in a range; never changed.

    Attributes:
      name: of its files, ``NAME-HEAD.usearch``.
      layer: index of the layer.
      first: the range's first id.
      last: the range's last id.
      count: entries in the index, some of which may have been forgotten since.
      files: size and CRC-32 of the file of each head.
    """

    name: str
    layer: int
    first: int
    last: int
    count: int
    files: tuple[tuple[int, int], ...]

    def path(self, directory: Path, head: int) -> Path:
        """Of the file of a head."""
        return directory / f"{self.name}-{head}.usearch"

    def to_row(self) -> tuple[Any, ...]:
        """As it lies in the database."""
        return (*dataclasses.astuple(self)[:-1], json.dumps(self.files))

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> "Segment":
        """The inverse of :meth:`to_row`."""
        name, layer, first, last, count, files = row
        checks = tuple((size, crc) for size, crc in json.loads(files))
        return cls(name, layer, first, last, count, checks)

    def problem(self, directory: Path) -> str | None:
        """What is wrong with the files, all of which are read."""
        for head, (size, crc) in enumerate(self.files):
            path = self.path(directory, head)
            try:
                there = path.stat().st_size
                if there != size:
                    return f"{path.name}: has {there} bytes instead of {size}"
                if file_checksum(path) != crc:
                    return f"{path.name}: has changed since it was written"
            except FileNotFoundError:
                return f"{path.name}: is missing"
            except OSError as error:
                return f"{path.name}: cannot be read ({error.strerror})"
        return None


@dataclasses.dataclass(frozen=True)
class Work:
    """A segment to be made.

    Attributes:
      layer: index of the layer.
      first: the first id of its range.
      last: the last one.
      base: a segment that it starts from, of the first ids, or None: all is added.
      gone: names of segments that it replaces.
    """

    layer: int
    first: int
    last: int
    base: Segment | None
    gone: tuple[str, ...]


def next_work(
    layer: int,
    segments: Sequence[Segment],
    alive: Sequence[int],
    tail: tuple[int, int, int],
    exact_below: int,
) -> Work | None:
    """What is to be done to the index of a layer.

    Args:
      layer: index of the layer.
      segments: that there are, rising.
      alive: entries of each that are not forgotten.
      tail: first id, last id and number of published entries in no segment.
      exact_below: as many entries are searched without an index.
    """
    for segment, living in zip(segments, alive, strict=True):
        if segment.count - living > DEAD * segment.count:
            return Work(layer, segment.first, segment.last, None, (segment.name,))
    first, last, count = tail
    if count <= exact_below:
        return None
    folded: list[Segment] = []
    for segment, living in zip(reversed(segments), reversed(alive), strict=True):
        if living > FOLD * count:
            break
        folded.append(segment)
        count += living
    if not folded:
        return Work(layer, first, last, None, ())
    gone = tuple(segment.name for segment in folded)
    return Work(layer, folded[-1].first, last, folded[-1], gone)


def file_checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
