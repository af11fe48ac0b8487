"""Helpers of the language that allocate their result, each one or two instructions."""

from typing import Any

from neuron.emulator import isa as nisa
from neuron.emulator.allocation import ndarray
from neuron.emulator.memory import MemoryRegion
from neuron.emulator.operators import BY_NAME, Operator
from neuron.emulator.session import current, fail, require
from neuron.emulator.tensors import Tensor


def _like(x: Tensor, dtype: Any) -> Tensor:
    return ndarray(x.shape, x.dtype if dtype is None else dtype)


def apply(op: Operator, x: Any, y: Any, dtype: Any) -> Tensor:
    """``nl.<op>(x, y)``: operands of equal shapes, or a tile and a number."""
    current().op = f"nl.{op.name}"
    require(isinstance(x, Tensor), "x", f"must be a tile, got {x!r}")
    if op.binary is None and op.bits is None:
        require(y is None, "y", f"nl.{op.name} takes one operand")
        result = _like(x, dtype)
        nisa.activation(dst=result, op=op, data=x)
        return result
    if isinstance(y, Tensor):
        require(x.shape == y.shape, "y", f"is {y.shape}, x is {x.shape}; there is no broadcasting")
        result = _like(x, dtype)
        nisa.tensor_tensor(dst=result, data1=x, data2=y, op=op)
        return result
    require(op.name != "power", "y", "nl.power takes no number as exponent")
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
    result = ndarray((x.size // x.shape[0], y.size // y.shape[0]), "float32", MemoryRegion.psum)
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
    result = ndarray((x.size // x.shape[0], x.shape[0]), kind, MemoryRegion.psum)
    nisa.nc_transpose(dst=result, data=x)
    return result


Operator.helper = apply
