"""Memory: storages, what is alive on the chip, and marks that tell who wrote what."""

import enum
import weakref
from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.rules import CapacityError
from neuron.emulator.targets import PARTITIONS

QUADRANT = 32
"""Partitions that an engine can address as a block; tiles start at such a block."""


class MemoryRegion(enum.Enum):
    """Where a tensor lives."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"

    @property
    def on_chip(self) -> bool:
        """True of SBUF and PSUM."""
        return self in (MemoryRegion.sbuf, MemoryRegion.psum)


class Arena:
    """Bytes of one on-chip memory that live tensors occupy, quadrant by quadrant.

    A tile of up to 32 partitions may start at any quadrant, one of up to 64 at the first or
    the third, a larger one at the first only. A new tile goes where the fullest quadrant that
    it covers stays lowest.

    Args:
      name: of the memory, for errors.
      limit: bytes of a partition that may be used.
    """

    def __init__(self, name: str, limit: int):
        self.name, self.limit = name, limit
        self.quadrants = [0] * (PARTITIONS // QUADRANT)
        self.high_water = 0

    def allocate(self, op: str, operand: str, partitions: int, size: int) -> range:
        """Reserve ``size`` bytes in each partition of a tile.

        Returns:
          The quadrants that hold it.

        Raises:
          CapacityError: they would hold more than the limit.
        """
        count = -(-partitions // QUADRANT)
        starts = {1: (0, 1, 2, 3), 2: (0, 2)}.get(count, (0,))
        places = [range(start, start + count) for start in starts]
        place = min(places, key=lambda p: (max(self.quadrants[q] for q in p), p.start))
        live = max(self.quadrants[q] for q in place)
        if live + size > self.limit:
            raise CapacityError(
                op,
                operand,
                f"{size} bytes a partition beside {live} bytes of live tiles exceed the "
                f"{self.limit} bytes of {self.name}; use smaller tiles, or let go of old ones",
            )
        for quadrant in place:
            self.quadrants[quadrant] += size
        self.high_water = max(self.high_water, live + size)
        return place

    def release(self, place: range, size: int) -> None:
        """Give back what :meth:`allocate` reserved."""
        for quadrant in place:
            self.quadrants[quadrant] -= size


class Storage:
    """A flat piece of memory that tensors are views of.

    Marks are kept per byte, so that views of another dtype share them.

    Args:
      shape: axis 0 is the partition axis if the region is on the chip.
      dtype: name of the dtype it was allocated with.
      region: where it lives.
      name: for errors.

    Attributes:
      raw: the bytes.
      by_matmul: PSUM only: bytes that a matmul has written.
      by_other: PSUM only: 1 where zeros were set after the last matmul, 2 where anything
        else was written.
      written: HBM only: bytes that have been written.
      readers: bit of each program that has read a byte since the last barrier; None unless
        several programs share the storage. Likewise ``writers``.
      external: true of a kernel's inputs.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, region: MemoryRegion, name: str = ""):
        self.shape, self.dtype, self.region, self.name = shape, dtype, region, name
        size = int(np.prod(shape, dtype=np.int64)) * dtypes.itemsize(dtype)
        self.raw = np.empty(size, np.uint8)
        self.raw.view(dtypes.numpy_dtype(dtype)).fill(dtypes.poison(dtype))
        psum = region is MemoryRegion.psum
        self.by_matmul = np.zeros(size, bool) if psum else None
        self.by_other = np.zeros(size, np.uint8) if psum else None
        self.written = None if region.on_chip else np.zeros(size, bool)
        self.readers: np.ndarray | None = None
        self.writers: np.ndarray | None = None
        self.external = False

    @property
    def partition_bytes(self) -> int:
        """Bytes of one partition, or of one index of axis 0."""
        return self.raw.size // self.shape[0]

    def occupy(self, arena: Arena, op: str, operand: str) -> None:
        """Take room in an arena for as long as this object lives."""
        size = self.partition_bytes
        place = arena.allocate(op, operand, self.shape[0], size)
        weakref.finalize(self, arena.release, place, size)

    def share(self) -> None:
        """Start to note which program reads and writes which byte."""
        self.readers = np.zeros(self.raw.size, np.uint8)
        self.writers = np.zeros(self.raw.size, np.uint8)

    def synchronize(self) -> None:
        """Forget readers and writers: a barrier orders them before what follows."""
        if self.readers is not None and self.writers is not None:
            self.readers.fill(0)
            self.writers.fill(0)

    def label(self) -> str:
        """The storage in an error."""
        return f"{self.name or 'a tensor'} {self.shape} {self.dtype} in {self.region.value}"

    def __repr__(self) -> str:
        return f"Storage({self.label()})"


def filled(array: np.ndarray, dtype: str, region: MemoryRegion, name: str = "") -> Storage:
    """A storage that holds a copy of an array of the same dtype."""
    storage = Storage(tuple(array.shape), dtype, region, name)
    values: Any = np.ascontiguousarray(array, dtype=dtypes.numpy_dtype(dtype))
    storage.raw[:] = values.reshape(-1).view(np.uint8)
    if storage.written is not None:
        storage.written.fill(True)
    return storage
