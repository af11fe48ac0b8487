"""The language, as ``nki.language`` has it: dtypes, memories, allocation, loops, programs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from neuron.emulator import dtypes, operators, session
from neuron.emulator.allocation import ndarray as ndarray
from neuron.emulator.helpers import load as load
from neuron.emulator.helpers import matmul as matmul
from neuron.emulator.helpers import max as max
from neuron.emulator.helpers import min as min
from neuron.emulator.helpers import store as store
from neuron.emulator.helpers import sum as sum
from neuron.emulator.helpers import transpose as transpose
from neuron.emulator.indexing import DynamicSlice
from neuron.emulator.isa.cores import VirtualRegister
from neuron.emulator.isa.elementwise import fill
from neuron.emulator.memory import MemoryRegion, filled
from neuron.emulator.rules import RuleError
from neuron.emulator.session import current, require
from neuron.emulator.targets import (
    PARTITIONS,
    PSUM_BANK_BYTES,
    PSUM_BANKS,
    Target,
    resolve,
)
from neuron.emulator.tensors import Tensor

NkiTensor = Tensor
ds = DynamicSlice

sbuf = MemoryRegion.sbuf
psum = MemoryRegion.psum
private_hbm = hbm = MemoryRegion.private_hbm
shared_hbm = MemoryRegion.shared_hbm

for _name in dtypes.NAMES:
    globals()[_name] = _name
for _operator in operators.OPERATORS:
    globals()[_operator.name] = _operator

MISSING = {
    "divide": "there is no divide; multiply by nisa.reciprocal",
    "mod": "there is no mod on the hardware",
    "mgrid": "is of the old interface; index by slices",
    "arange": "is of the old interface; index by slices, or use nisa.iota",
    "par_dim": "is of the old interface; axis 0 is the partition axis",
    "dynamic_range": "is gone since 0.7; use range, or nl.fori_loop",
}


def __getattr__(name: str) -> Any:
    problem = MISSING.get(name, "does not exist")
    error = RuleError(f"nl.{name}", "name", problem)
    raise AttributeError(str(error))


class NKIObject:
    """Base of classes whose objects are passed to kernels."""


class _TileSize:
    """Limits of the target, by the names of ``nl.tile_size``."""

    pmax = PARTITIONS
    psum_num_banks = PSUM_BANKS
    psum_bank_fmax_bytes = PSUM_BANK_BYTES
    psum_bank_fmax = psum_fmax = PSUM_BANK_BYTES // 4
    gemm_stationary_fmax = 128
    bn_stats_fmax = 512

    @property
    def _target(self) -> Target:
        program = session.running()
        return program.target if program else resolve()

    @property
    def gemm_moving_fmax(self) -> int:
        """Columns of a matmul's moving operand."""
        return 512

    @property
    def sbuf_fmax_bytes(self) -> int:
        """Usable bytes of a partition of SBUF."""
        return self._target.sbuf_bytes

    @property
    def sbuf_fmax(self) -> int:
        """Usable float32 elements of a partition of SBUF."""
        return self.sbuf_fmax_bytes // 4

    @property
    def sbuf_size_bytes(self) -> int:
        """Usable bytes of SBUF."""
        return self.sbuf_fmax_bytes * PARTITIONS

    total_available_sbuf_size = sbuf_size_bytes


tile_size = _TileSize()


# Allocation.


def full(shape: Any, fill_value: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new tensor of one value."""
    result = ndarray(shape, dtype, buffer, name)
    fill(result, fill_value)
    return result


def zeros(shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new tensor of zeros."""
    return full(shape, 0, dtype, buffer, name)


def ones(shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "") -> Tensor:
    """A new tensor of ones."""
    return full(shape, 1, dtype, buffer, name)


def shared_constant(constant: Any, dtype: Any = None) -> Tensor:
    """A constant in HBM, from an array known at trace time."""
    current()
    array = np.asarray(constant)
    try:
        kind = dtypes.name_of(array.dtype if dtype is None else dtype)
    except ValueError as error:
        raise RuleError("nl.shared_constant", "dtype", str(error)) from None
    storage = filled(array.astype(dtypes.numpy_dtype(kind)), kind, MemoryRegion.shared_hbm)
    storage.external = True
    return Tensor.whole(storage)


def shared_identity_matrix(n: int, dtype: Any = "uint8", dst: Any = None) -> Tensor:
    """An identity matrix in SBUF."""
    result = dst if dst is not None else ndarray((n, n), dtype)
    result.write(np.eye(n, dtype=np.float32))
    return result


# Programs.


def program_id(axis: int = 0) -> int:
    """Which program of the launch this is."""
    require(axis == 0, "axis", f"a launch has one axis, got axis {axis}")
    return current().index


def num_programs(axes: int = 0) -> int:
    """How many programs the launch has; 1 without a degree."""
    return current().count


def program_ndim() -> int:
    """Axes of the launch: 1, or 0 if it was launched without a degree."""
    return int(current().has_grid)


# Loops.


def static_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """``range``; loops are unrolled."""
    return range(start) if stop is None else range(start, stop, step)


affine_range = sequential_range = static_range


def fori_loop(lower: Any, upper: Any, body: Callable[[Any], Any], step: int = 1) -> None:
    """``body(i)`` for each i, i a register: good for ``scalar_offset`` only."""
    first, last = (b.get() if isinstance(b, VirtualRegister) else int(b) for b in (lower, upper))
    for i in range(first, last, step):
        body(VirtualRegister(i))


def while_loop(init_reg: VirtualRegister, body: Callable[[VirtualRegister], Any]) -> None:
    """``body(register)`` while the register is not zero; the body changes or returns it."""
    register = init_reg
    while register.get() != 0:
        result = body(register)
        register = result if isinstance(result, VirtualRegister) else register


@contextlib.contextmanager
def no_reorder() -> Iterator[None]:
    """Order is that of the program here in any case."""
    yield


def device_print(print_prefix: str, tensor: Tensor) -> None:
    """Print a tensor when the kernel runs."""
    print(print_prefix, tensor.read())


def is_hbm(buffer: MemoryRegion) -> bool:
    """True of both kinds of HBM."""
    return not buffer.on_chip


def is_on_chip(buffer: MemoryRegion) -> bool:
    """True of SBUF and PSUM."""
    return buffer.on_chip


def is_psum(buffer: MemoryRegion) -> bool:
    """True of PSUM."""
    return buffer is MemoryRegion.psum


def is_sbuf(buffer: MemoryRegion) -> bool:
    """True of SBUF."""
    return buffer is MemoryRegion.sbuf
