"""Element by element: arithmetic, copies and fills, on VectorE, ScalarE or GpSimdE."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.common import (
    CHIP,
    SBUF,
    apply,
    arithmetic,
    choose_engine,
    count,
    dtype_in,
    elements,
    flag,
    flat,
    flat32,
    instruction,
    is_integer32,
    need_integers,
    not_both_psum,
    number,
    operator,
    require,
    same_layout,
    scalar_or_column,
    tile,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.memory import MemoryRegion
from neuron.emulator.operators import Operator
from neuron.emulator.session import current, fail
from neuron.emulator.tensors import Tensor

RECIPROCAL_COLUMNS = 8
GPSIMD_RSQRT_COLUMNS = 4


def one_input_columns(dst: Tensor, data: Tensor) -> float:
    """Cycles of a VectorE instruction with one tensor: fast for 16-bit tiles in SBUF."""
    fast = current().target.generation >= 3 and _half_in_sbuf(dst, data)
    return elements(data) / (4 if fast else 1)


def two_input_columns(*views: Tensor) -> float:
    """Cycles of a VectorE instruction with two tensors."""
    fast = current().target.generation >= 3 and _half_in_sbuf(*views)
    return elements(views[0]) * (1 if fast else 2)


def _half_in_sbuf(*views: Tensor) -> bool:
    return all(
        v.dtype in ("bfloat16", "float16") and v.buffer is MemoryRegion.sbuf and v.strides[-1] == 1
        for v in views
    )


@instruction
def tensor_tensor(
    dst: Any,
    data1: Any,
    data2: Any,
    op: Any,
    engine: Any = Engine.unknown,
    name: str | None = None,
) -> None:
    """``dst = data1 <op> data2``, in float32, or in exact integers on GpSimdE."""
    dst, data1, data2 = tile(dst, "dst"), tile(data1, "data1"), tile(data2, "data2")
    same_layout("data1", data1=data1, data2=data2, dst=dst)
    not_both_psum(data1=data1, data2=data2)
    op = operator(op, "op")
    in_sbuf = all(v.buffer is MemoryRegion.sbuf for v in (dst, data1, data2))
    exact = is_integer32(dst, data1, data2) and op.binary is not None
    default = Engine.vector
    if op.name == "power" or (exact and in_sbuf):
        default = Engine.gpsimd
    used = choose_engine(engine, (Engine.vector, Engine.gpsimd), default)
    require(op.name != "power" or used is Engine.gpsimd, "engine", "nl.power runs on gpsimd only")
    if used is Engine.gpsimd:
        for operand, view in (("dst", dst), ("data1", data1), ("data2", data2)):
            tile(view, operand, SBUF)
    if op.bits is not None:
        require(op.name != "invert", "op", "nl.invert takes one operand")
        need_integers(f"nl.{op.name}", data1, data2, dst)
        _bits(dst, op, data1, flat(data2))
    elif exact and used is Engine.gpsimd and op.name != "power":
        left, right = (flat(view).astype(np.int64) for view in (data1, data2))
        assert op.binary is not None
        exactly = np.asarray(op.binary(left, right)).astype(np.int64)
        dst.write(exactly.astype(dtypes.numpy_dtype(dst.dtype)), dst.dtype)
    else:
        dst.write(apply(arithmetic(op, "op"), flat32(data1), flat32(data2)))
    count(used, two_input_columns(data1, data2, dst))


def _bits(dst: Tensor, op: Operator, data: Tensor, other: np.ndarray) -> None:
    """An operator on the bit patterns of two tiles: no dtype is converted."""
    assert op.bits is not None
    dtype_in(dst, "dst", (data.dtype,))
    kind = dtypes.numpy_dtype(data.dtype)
    dst.write(op.bits(flat(data), other.astype(kind)).astype(kind), dst.dtype)


@instruction
def tensor_scalar(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any = None,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    engine: Any = Engine.unknown,
    name: str | None = None,
) -> None:
    """``dst = (data <op0> operand0) <op1> operand1``, operands numbers or columns."""
    dst, data = tile(dst, "dst"), tile(data, "data")
    same_layout("data", data=data, dst=dst)
    reverse0, reverse1 = flag(reverse0, "reverse0"), flag(reverse1, "reverse1")
    first = operator(op0, "op0")
    second = None if op1 is None else operator(op1, "op1")
    require(second is not None or operand1 is None, "operand1", "is given without op1")
    if second is not None:
        require(
            (first.bits is None) == (second.bits is None),
            "op1",
            f"nl.{first.name} and nl.{second.name}: bits and arithmetic can't be mixed",
        )
    used = _tensor_scalar_engine(engine, first, second, dst, data)
    if first.bits is not None:
        steps = [(first, operand0, reverse0, "operand0")]
        if second is not None:
            steps.append((second, operand1, reverse1, "operand1"))
        _bit_steps(dst, data, steps)
    else:
        value = _step(first, "op0", flat32(data), operand0, "operand0", reverse0, data)
        if second is not None:
            value = _step(second, "op1", value, operand1, "operand1", reverse1, data)
        dst.write(value)
    if used is Engine.vector:
        count(used, one_input_columns(dst, data))
    else:
        count(used, elements(data) * (GPSIMD_RSQRT_COLUMNS if used is Engine.gpsimd else 1))


def _tensor_scalar_engine(
    engine: Any, first: Operator, second: Operator | None, dst: Tensor, data: Tensor
) -> Engine:
    rsqrt = first.name == "rsqrt" or (second is not None and second.name == "rsqrt")
    in_sbuf = dst.buffer is MemoryRegion.sbuf and data.buffer is MemoryRegion.sbuf
    default = Engine.gpsimd if rsqrt and in_sbuf else Engine.vector
    used = choose_engine(engine, (Engine.vector, Engine.scalar, Engine.gpsimd), default)
    names = (first.name, second.name if second else None)
    if used is Engine.scalar:
        legal = (("multiply", "add"), ("multiply", None), ("add", None))
        require(
            names in legal,
            "engine",
            f"scalar takes multiply and add, multiply, or add, not {names}",
        )
    if used is Engine.gpsimd:
        require(rsqrt, "engine", "gpsimd is allowed for nl.rsqrt only")
        tile(dst, "dst", SBUF)
        tile(data, "data", SBUF)
    require(used is Engine.vector or first.bits is None, "engine", "operators on bits need vector")
    return used


def _step(
    op: Operator,
    op_operand: str,
    value: np.ndarray,
    other: Any,
    operand: str,
    reverse: bool,
    base: Tensor,
) -> np.ndarray:
    """One of the two steps of ``tensor_scalar``."""
    if op.binary is None:
        require(op.unary is not None, op_operand, f"nl.{op.name} is no arithmetic operator")
        require(
            other is None or (not isinstance(other, Tensor) and other == 0),
            operand,
            f"must be None or 0: nl.{op.name} takes one operand",
        )
        assert op.unary is not None
        return np.asarray(op.unary(value), np.float32)
    if other is None:
        fail(operand, f"is missing, nl.{op.name} takes two operands")
    return apply(op, value, scalar_or_column(other, operand, base), reverse)


def _bit_steps(dst: Tensor, data: Tensor, steps: list[tuple[Operator, Any, bool, str]]) -> None:
    need_integers(f"nl.{steps[0][0].name}", data, dst)
    dtype_in(dst, "dst", (data.dtype,))
    kind = dtypes.numpy_dtype(data.dtype)
    value = flat(data)
    for op, other, reverse, operand in steps:
        assert op.bits is not None
        if op.name == "invert":
            value = op.bits(value)
            continue
        if isinstance(other, Tensor):
            need_integers(operand, other)
            right = flat(other).astype(kind)
        else:
            require(isinstance(other, int | np.integer), operand, f"must be an integer: {other!r}")
            right = np.asarray(other).astype(kind)
        value = (op.bits(right, value) if reverse else op.bits(value, right)).astype(kind)
    dst.write(value, dst.dtype)


@instruction
def scalar_tensor_tensor(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
) -> None:
    """``dst = (data <op0> operand0) <op1> operand1``, operand1 a tile like data."""
    dst, data, operand1 = tile(dst, "dst"), tile(data, "data"), tile(operand1, "operand1")
    same_layout("data", data=data, operand1=operand1, dst=dst)
    not_both_psum(data=data, operand1=operand1)
    left = scalar_or_column(operand0, "operand0", data, None)
    value = apply(arithmetic(op0, "op0"), flat32(data), left, flag(reverse0, "reverse0"))
    value = apply(arithmetic(op1, "op1"), value, flat32(operand1), flag(reverse1, "reverse1"))
    dst.write(value)
    count(Engine.vector, 2 * elements(data))


@instruction
def reciprocal(dst: Any, data: Any, name: str | None = None) -> None:
    """``dst = 1 / data``, accurate, on VectorE."""
    dst, data = tile(dst, "dst"), tile(data, "data")
    same_layout("data", data=data, dst=dst)
    dst.write(np.float32(1) / flat32(data))
    count(Engine.vector, RECIPROCAL_COLUMNS * elements(data))


@instruction
def tensor_copy(dst: Any, src: Any, engine: Any = Engine.unknown, name: str | None = None) -> None:
    """A copy on the chip: bit for bit if the dtypes agree, by way of float32 if not."""
    dst, src = tile(dst, "dst", CHIP), tile(src, "src", CHIP)
    same_layout("src", src=src, dst=dst)
    used = choose_engine(engine, (Engine.vector, Engine.scalar, Engine.gpsimd), Engine.vector)
    if used is Engine.gpsimd:
        tile(dst, "dst", SBUF)
        tile(src, "src", SBUF)
    require(
        used is not Engine.scalar or current().target.generation >= 3,
        "engine",
        "scalar has no tensor_copy on gen2; use nisa.activation(op=nl.copy)",
    )
    dst.write(flat(src), src.dtype)
    count(used, one_input_columns(dst, src) if used is Engine.vector else elements(src))


@instruction
def memset(dst: Any, value: Any, engine: Any = Engine.unknown, name: str | None = None) -> None:
    """Every element of a tile set to a constant."""
    dst = tile(dst, "dst", CHIP)
    used = choose_engine(engine, (Engine.vector, Engine.gpsimd), Engine.vector)
    if used is Engine.gpsimd:
        tile(dst, "dst", SBUF)
    fill(dst, value)
    count(used, elements(dst))


def fill(dst: Tensor, value: Any) -> None:
    """Set every element to a constant whose type fits the tile."""
    number(value, "value")
    if dtypes.is_float(dst.dtype):
        dst.write(np.full(dst.shape, value, np.float32))
        return
    require(
        isinstance(value, int | np.integer),
        "value",
        f"{value!r} is a float, the tile is {dst.dtype}; pass an integer",
    )
    limits = np.iinfo(dtypes.numpy_dtype(dst.dtype))
    require(
        limits.min <= value <= limits.max,
        "value",
        f"{value} is not in {limits.min}..{limits.max} of {dst.dtype}",
    )
    dst.write(np.full(dst.shape, value, dtypes.numpy_dtype(dst.dtype)), dst.dtype)


@instruction
def tensor_copy_predicated(
    dst: Any, src: Any, predicate: Any, reverse_pred: bool = False, name: str | None = None
) -> None:
    """``dst = src`` where the predicate is not zero; elsewhere dst keeps what it has."""
    dst, predicate = tile(dst, "dst"), tile(predicate, "predicate")
    dtype_in(predicate, "predicate", ("uint8", "uint16", "uint32", "bool_"))
    same_layout("dst", dst=dst, predicate=predicate)
    chosen = (flat(predicate) != 0) ^ flag(reverse_pred, "reverse_pred")
    kind = dtypes.numpy_dtype(dst.dtype)
    if isinstance(src, Tensor):
        src = tile(src, "src")
        same_layout("dst", dst=dst, src=src)
        not_both_psum(src=src, predicate=predicate)
        dtype_in(src, "src", (dst.dtype,))
        new = flat(src)
    else:
        new = np.full(chosen.shape, number(src, "src"), kind)
    dst.write(np.where(chosen, new, flat(dst)).astype(kind), dst.dtype)
    count(Engine.vector, 2 * elements(dst))


@instruction
def nc_stream_shuffle(dst: Any, src: Any, shuffle_mask: Any, name: str | None = None) -> None:
    """Partition i of each quadrant of 32 takes partition ``shuffle_mask[i]`` of it; 255 keeps."""
    dst, src = tile(dst, "dst"), tile(src, "src")
    dtype_in(dst, "dst", (src.dtype,))
    require(
        elements(dst) == elements(src),
        "dst",
        f"has {elements(dst)} elements per partition, src has {elements(src)}",
    )
    mask = list(shuffle_mask)
    require(len(mask) == 32, "shuffle_mask", f"must have 32 entries, has {len(mask)}")
    values, old = flat(src), flat(dst)
    result = old.copy()
    for p in range(dst.shape[0]):
        source = mask[p % 32]
        if source == 255:
            continue
        require(0 <= source < 32, "shuffle_mask", f"entry {source} is neither in 0..31 nor 255")
        row = p // 32 * 32 + int(source)
        require(row < src.shape[0], "shuffle_mask", f"entry {source} is beyond src's partitions")
        result[p] = values[row]
    dst.write(result, dst.dtype)
    count(Engine.vector, elements(src))
