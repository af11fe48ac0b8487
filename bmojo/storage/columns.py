"""Columns on disk: arrays that only grow, each a file, published together by a line of a log.

A publication makes the new rows durable, then appends to ``publications`` the length of every
column, the CRC-32 of what each has gained, and a CRC-32 of the line. What lies behind the last
whole line was never published: readers don't see it, and the next writer cuts it off.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from bmojo.errors import UserError
from bmojo.files import sync_directory

__all__ = ["LOG", "Columns"]

LOG = "publications"
CHECK = struct.Struct("<I")


class Columns:
    """The columns of a directory; a row is what one place of an array holds.

    Attributes:
      path: of the directory.
      length: rows of each column, for a writer with those that are not published.
      published: rows of each column that are.
    """

    def __init__(self, path: Path, kinds: dict[str, np.dtype], write: bool):
        self.path, self._kinds, self._write = path, kinds, write
        self._line = struct.Struct("<" + "QI" * len(kinds))
        self._crc = dict.fromkeys(kinds, 0)
        self._maps: dict[str, np.ndarray] = {}
        self._files: dict[str, IO[bytes]] = {}
        lines = self._lines()
        whole = [number for number, line in enumerate(lines) if line is not None]
        self.published = dict(lines[whole[-1]] or {}) if whole else dict.fromkeys(kinds, 0)
        self.length = dict(self.published)
        self._require_rows()
        if write:
            for name in kinds:
                self._open(name, self.length[name] * kinds[name].itemsize)
            self._open(LOG, (whole[-1] + 1 if whole else 0) * self._size)
            sync_directory(path)

    @property
    def _size(self) -> int:
        return self._line.size + CHECK.size

    def _lines(self) -> list[dict[str, int] | None]:
        """Lengths by each line of the log; None for a line that is not as it was written."""
        try:
            data = (self.path / LOG).read_bytes()
        except FileNotFoundError:
            return []
        return [
            {name: numbers[2 * i] for i, name in enumerate(self._kinds)} if good else None
            for numbers, good in map(self._parse, self._cut(data))
        ]

    def _cut(self, data: bytes) -> list[bytes]:
        return [data[i : i + self._size] for i in range(0, len(data), self._size)]

    def _parse(self, line: bytes) -> tuple[tuple[int, ...], bool]:
        """Length and CRC-32 of each column in turn, and whether the line is whole."""
        if len(line) < self._size:
            return (), False
        body = line[: self._line.size]
        return self._line.unpack(body), CHECK.unpack(line[self._line.size :])[0] == zlib.crc32(body)

    def _open(self, name: str, size: int) -> None:
        """Open a file for appending, without what lies behind ``size``."""
        self._files[name] = file = open(self.path / name, "ab")  # noqa: SIM115
        file.truncate(size)

    def _require_rows(self) -> None:
        """Map all rows, so that they stay there if the directory is removed."""
        for name, kind in self._kinds.items():
            there = (self.path / name).stat().st_size if self.length[name] else 0
            if there < self.length[name] * kind.itemsize:
                raise UserError(
                    f"{self.path / name}: {self.length[name] - there // kind.itemsize:,} published "
                    "rows are missing at its end; put the file back"
                )
            self[name]

    def __getitem__(self, name: str) -> np.ndarray:
        """All rows of a column, which are not to be changed."""
        length, there = self.length[name], self._maps.get(name)
        if there is None or len(there) < length:
            there = np.zeros(0, self._kinds[name])
            if length:
                size = length * self._kinds[name].itemsize
                with open(self.path / name, "rb") as file:
                    data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                there = np.frombuffer(data, self._kinds[name])
            self._maps[name] = there
        return there[:length]

    def append(self, **rows: np.ndarray) -> None:
        """Write rows of some columns behind those that are there."""
        for name, array in rows.items():
            data = np.ascontiguousarray(array, self._kinds[name].base).tobytes()
            self._files[name].write(data)
            self._files[name].flush()
            self._crc[name] = zlib.crc32(data, self._crc[name])
            self.length[name] += len(data) // self._kinds[name].itemsize

    def publish(self) -> None:
        """Make all rows durable, and seen by readers that refresh or open."""
        if self.length == self.published:
            return
        for name in self._kinds:
            if self.length[name] > self.published[name]:
                os.fsync(self._files[name].fileno())
        numbers = [(self.length[name], self._crc[name]) for name in self._kinds]
        line = self._line.pack(*(x for pair in numbers for x in pair))
        self._files[LOG].write(line + CHECK.pack(zlib.crc32(line)))
        self._files[LOG].flush()
        os.fsync(self._files[LOG].fileno())
        self.published, self._crc = dict(self.length), dict.fromkeys(self._kinds, 0)

    def refresh(self) -> None:
        """See what a writer has published."""
        whole = [line for line in self._lines() if line is not None]
        if whole and not self._write:
            self.published = self.length = dict(whole[-1])
            self._require_rows()

    def close(self) -> None:
        """Close the files; what is not published is lost."""
        for file in self._files.values():
            file.close()

    def verify(self) -> list[str]:
        """Compare all published rows with their checksums; what is wrong, a line for each."""
        problems, before = [], dict.fromkeys(self._kinds, 0)
        data = (self.path / LOG).read_bytes() if (self.path / LOG).exists() else b""
        lines = [self._parse(line) for line in self._cut(data)]
        last = max((i for i, (_, good) in enumerate(lines) if good), default=-1)
        for number, (numbers, good) in enumerate(lines[: last + 1]):
            if not good:
                problems.append(f"{LOG}: line {number + 1} has changed since it was written")
                continue
            for i, name in enumerate(self._kinds):
                length, crc = numbers[2 * i : 2 * i + 2]
                rows = self[name][before[name] : length]
                joined = number and not lines[number - 1][1]  # two publications, one checksum
                if not joined and zlib.crc32(rows.tobytes()) != crc:
                    problems.append(
                        f"{name}: rows {before[name]:,} to {length - 1:,} have changed since they "
                        "were written"
                    )
                before[name] = length
        return problems
