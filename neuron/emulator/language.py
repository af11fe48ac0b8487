"""The language, as ``nki.language`` has it: dtypes, memories, allocation, loops, programs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from neuron.emulator import dtypes, operators, session
from neuron.emulator import isa as nisa
from neuron.emulator.indexing import DynamicSlice
from neuron.emulator.isa.cores import VirtualRegister
from neuron.emulator.isa.elementwise import fill
from neuron.emulator.memory import MemoryRegion, Storage, filled
from neuron.emulator.operators import BY_NAME, Operator
from neuron.emulator.rules import RuleError
from neuron.emulator.session import current, fail, require
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


def ndarray(
    shape: Any, dtype: Any, buffer: Any = sbuf, name: str = "", address: Any = None
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


def _like(x: Tensor, dtype: Any) -> Tensor:
    return ndarray(x.shape, x.dtype if dtype is None else dtype)


def _apply(op: Operator, x: Any, y: Any, dtype: Any) -> Tensor:
    """``<op>(x, y)``: operands of equal shapes, or a tile and a number."""
    current().op = f"{op.name}"
    require(isinstance(x, Tensor), "x", f"must be a tile, got {x!r}")
    if op.binary is None and op.bits is None:
        require(y is None, "y", f"{op.name} takes one operand")
        result = _like(x, dtype)
        nisa.activation(dst=result, op=op, data=x)
        return result
    if isinstance(y, Tensor):
        require(x.shape == y.shape, "y", f"is {y.shape}, x is {x.shape}; there is no broadcasting")
        result = _like(x, dtype)
        nisa.tensor_tensor(dst=result, data1=x, data2=y, op=op)
        return result
    require(op.name != "power", "y", "power takes no number as exponent")
    result = _like(x, dtype)
    nisa.tensor_scalar(dst=result, data=x, op0=op, operand0=y)
    return result


def load(src: Any, dtype: Any = None) -> Tensor:
    """A copy of an HBM tensor in SBUF."""
    require(isinstance(src, Tensor) and not src.on_chip, "src", f"must be in HBM: {src!r}")
    shape = src.shape if src.ndim >= 2 else (src.shape[0], 1)
    result = ndarray(shape, src.dtype if dtype is None else dtype)
    nisa.dma_copy(dst=result, src=src)
    return result


def store(dst: Any, value: Any) -> None:
    """A copy of an SBUF tile in HBM."""
    nisa.dma_copy(dst=dst, src=value)


def matmul(x: Any, y: Any, transpose_x: bool = False) -> Tensor:
    """``x^T @ y`` in PSUM."""
    if not transpose_x:
        fail("transpose_x", "must be True; the hardware contracts over partitions")
    result = ndarray((x.size // x.shape[0], y.size // y.shape[0]), "float32", psum)
    nisa.nc_matmul(dst=result, stationary=x, moving=y, accumulate=False)
    return result


def _reduce(op: str, x: Tensor, axis: Any, dtype: Any, keepdims: bool) -> Tensor:
    axes = [
        a + x.ndim if a < 0 else a for a in (axis if isinstance(axis, tuple | list) else [axis])
    ]
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    shape = kept if keepdims else [n for i, n in enumerate(kept) if i not in axes]
    shape += [1] * (2 - len(shape))
    result = ndarray(tuple(shape), x.dtype if dtype is None else dtype)
    nisa.tensor_reduce(dst=result, op=BY_NAME[op], data=x, axis=tuple(axes))
    return result


def max(x: Tensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The largest along the last axes."""
    return _reduce("maximum", x, axis, dtype, keepdims)


def min(x: Tensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest along the last axes."""
    return _reduce("minimum", x, axis, dtype, keepdims)


def sum(x: Tensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The sum along the last axes."""
    return _reduce("add", x, axis, dtype, keepdims)


def transpose(x: Tensor, dtype: Any = None) -> Tensor:
    """A tile with partitions and free axes exchanged, in PSUM."""
    kind = x.dtype if dtype is None else dtype
    result = ndarray((x.size // x.shape[0], x.shape[0]), kind, psum)
    nisa.nc_transpose(dst=result, data=x)
    return result


Operator.apply = staticmethod(_apply)
