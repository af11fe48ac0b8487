"""Allocation of tensors in the memories of the chip and in HBM."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes, session
from neuron.emulator.memory import MemoryRegion, Storage
from neuron.emulator.session import current, fail, require
from neuron.emulator.targets import PARTITIONS, PSUM_BANK_BYTES
from neuron.emulator.tensors import Tensor


def ndarray(
    shape: Any, dtype: Any, buffer: Any = MemoryRegion.sbuf, name: str = "", address: Any = None
) -> Tensor:
    """A new tensor; what it holds is undefined: NaN, or 4 for integers.

    Args:
      shape: on the chip axis 0 is the partition axis, at most 128.
      dtype: of its elements.
      buffer: ``nl.sbuf``, ``nl.psum``, ``nl.private_hbm`` or ``nl.shared_hbm``.
      name: for errors.
      address: placement by hand; PSUM tiles must start at a bank.
    """
    program, op = current(), "nl.ndarray"
    outer, program.op = program.op, op
    try:
        return _allocate(shape, dtype, buffer, name, address)
    finally:
        program.op = outer


def _allocate(shape: Any, dtype: Any, buffer: Any, name: str, address: Any) -> Tensor:
    program, op = current(), session.op_name()
    require(
        isinstance(buffer, MemoryRegion),
        "buffer",
        f"must be nl.sbuf, nl.psum, nl.private_hbm or nl.shared_hbm, got {buffer!r}",
    )
    require(isinstance(shape, tuple | list), "shape", f"must be a tuple, got {shape!r}")
    for size in shape:
        require(
            isinstance(size, int | np.integer) and int(size) >= 1,
            "shape",
            f"{size!r} is no positive integer in {tuple(shape)}",
        )
    shape = tuple(int(n) for n in shape)
    try:
        kind = dtypes.name_of(dtype)
    except ValueError as error:
        fail("dtype", str(error))
    if kind == "float8_e4m3fn":
        require(program.target.generation >= 4, "dtype", "float8_e4m3fn needs gen4")
    if not buffer.on_chip:
        require(len(shape) >= 1, "shape", "must have an axis")
        if buffer is MemoryRegion.shared_hbm and program.shared_hbm is not None:
            return Tensor.whole(program.shared_hbm(shape, kind, name))
        return Tensor.whole(Storage(shape, kind, buffer, name))
    require(
        len(shape) >= 2, "shape", f"{shape}: on the chip a tensor has a partition and a free axis"
    )
    require(
        shape[0] <= PARTITIONS, "shape", f"{shape} has {shape[0]} partitions, at most {PARTITIONS}"
    )
    if address is not None and buffer is MemoryRegion.psum:
        require(
            address[1] % PSUM_BANK_BYTES == 0,
            "address",
            f"{address[1]} is no multiple of the {PSUM_BANK_BYTES} bytes of a PSUM bank",
        )
    storage = Storage(shape, kind, buffer, name)
    arena = program.psum if buffer is MemoryRegion.psum else program.sbuf
    storage.occupy(arena, op, f"{name or 'tile'} {shape} {kind}")
    return Tensor.whole(storage)
