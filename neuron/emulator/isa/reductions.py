"""VectorE: reductions, scans and statistics along the free axes."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.accumulators import (
    ACCUMULATING,
    accumulate,
    fold,
    read_out,
    registers,
)
from neuron.emulator.isa.common import (
    apply,
    arithmetic,
    column,
    count,
    dtype_in,
    elements,
    flag,
    flat32,
    instruction,
    member,
    need_integers,
    not_both_psum,
    number,
    reduction,
    require,
    same_layout,
    scalar_or_column,
    span,
    tile,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.isa.enums import reduce_cmd as Command
from neuron.emulator.operators import REDUCTIONS, Operator
from neuron.emulator.session import current
from neuron.emulator.tensors import Tensor

BN_STATS_ELEMENTS = 512


@instruction
def tensor_reduce(
    dst: Any,
    op: Any,
    data: Any,
    axis: Any,
    negate: bool = False,
    keepdims: bool = False,
    name: str | None = None,
) -> None:
    """The last free axes of a tile reduced, in float32, or on bits."""
    dst, data = tile(dst, "dst"), tile(data, "data")
    op = reduction(op, "op", REDUCTIONS)
    axes = [int(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    axes = sorted(a + data.ndim if a < 0 else a for a in axes)
    require(0 not in axes, "axis", "0 is the partition axis; use a matmul with ones")
    last = list(range(data.ndim - len(axes), data.ndim))
    require(
        axes == last,
        "axis",
        f"{tuple(axes)} must be the last axes {tuple(last)} of the {data.ndim}",
    )
    kept = data.size // data.shape[0] // int(np.prod([data.shape[a] for a in axes]))
    require(
        dst.shape[0] == data.shape[0], "dst", f"has {dst.shape[0]} partitions, data {data.shape[0]}"
    )
    require(
        elements(dst) == kept,
        "dst",
        f"has {elements(dst)} elements per partition, the reduction leaves {kept}",
    )
    flag(keepdims, "keepdims")
    count(Engine.vector, elements(data))
    rows = data.read().reshape(data.shape[0], kept, -1)
    if op.bits is not None:
        need_integers(f"nl.{op.name}", data, dst)
        require(not negate, "negate", "is for arithmetic only")
        result = rows[..., 0]
        for i in range(1, rows.shape[-1]):
            result = op.bits(result, rows[..., i])
        dst.write(result, data.dtype)
        return
    value = fold(op, rows.astype(np.float32))
    dst.write(-value if flag(negate, "negate") else value)


@instruction
def tensor_scalar_reduce(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Any,
    reverse0: bool = False,
    reduce_cmd: Any = Command.reset_reduce,
    reduce_init: Any = None,
    name: str | None = None,
) -> None:
    """``dst = data <op0> operand0``, and its reduction over the free axes."""
    dst, data = tile(dst, "dst"), tile(data, "data")
    same_layout("data", data=data, dst=dst)
    require(not flag(reverse0, "reverse0"), "reverse0", "is not supported")
    member(reduce_cmd, "reduce_cmd", Command, ACCUMULATING)
    op = reduction(reduce_op, "reduce_op", ("add", "multiply", "maximum", "minimum"))
    require(reduce_res is not None, "reduce_res", "is missing")
    value = apply(
        arithmetic(op0, "op0"), flat32(data), scalar_or_column(operand0, "operand0", data)
    )
    registers(reduce_cmd, op, reduce_init, data, "reduce_init")
    dst.write(value)
    accumulate(op, value, data)
    read_out(reduce_res, data)
    count(Engine.vector, elements(data))


@instruction
def tensor_tensor_scan(
    dst: Any,
    data0: Any,
    data1: Any,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
) -> None:
    """``s[t] = (data0[t] op0 s[t-1]) op1 data1[t]`` along the free axes, s[-1] = initial.

    The carry is float32 whatever dst is; each s[t] is rounded to dst's dtype on its way out.
    """
    dst, data0, data1 = tile(dst, "dst"), tile(data0, "data0"), tile(data1, "data1")
    same_layout("data0", data0=data0, data1=data1, dst=dst)
    not_both_psum(data0=data0, data1=data1)
    inner, outer = arithmetic(op0, "op0"), arithmetic(op1, "op1")
    reverse0, reverse1 = flag(reverse0, "reverse0"), flag(reverse1, "reverse1")
    a, b = flat32(data0), flat32(data1)
    if isinstance(initial, Tensor):
        state = flat32(column(initial, "initial", data0))[:, 0]
    else:
        state = np.full(len(a), number(initial, "initial"), np.float32)
    dst.write(_scan(inner, outer, a, b, state, reverse0, reverse1))
    count(Engine.vector, 2 * elements(data0))


def _scan(
    inner: Operator,
    outer: Operator,
    a: np.ndarray,
    b: np.ndarray,
    state: np.ndarray,
    reverse0: bool,
    reverse1: bool,
) -> np.ndarray:
    a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    result = np.empty_like(a)
    linear = (inner.name, outer.name) == ("multiply", "add")
    for t in range(len(a)):
        if linear:
            state = a[t] * state + b[t]
        else:
            state = apply(inner, a[t], state, reverse0)
            state = apply(outer, state, b[t], reverse1)
        result[t] = state
    return result.T


@instruction
def tensor_scalar_cumulative(
    dst: Any,
    src: Any,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = Command.reset_reduce,
    name: str | None = None,
) -> None:
    """``r = (x op0 imm0) op1 r`` along the free axes; every r goes to dst."""
    dst, src = tile(dst, "dst"), tile(src, "src")
    same_layout("src", src=src, dst=dst)
    allowed = tuple(n for n in dtypes.NAMES if n not in ("int32", "uint32", "tfloat32"))
    dtype_in(src, "src", allowed)
    dtype_in(dst, "dst", allowed)
    member(reduce_cmd, "reduce_cmd", Command, ACCUMULATING)
    op = reduction(op1, "op1", ("add", "subtract", "multiply", "maximum", "minimum"))
    state = registers(reduce_cmd, op, imm1, src, "imm1")
    value = apply(arithmetic(op0, "op0"), flat32(src), scalar_or_column(imm0, "imm0", src))
    result = np.empty_like(value)
    for t in range(value.shape[1]):
        state = apply(op, value[:, t], state)
        result[:, t] = state
    current().vector_registers[span(src)] = state
    dst.write(result)
    count(Engine.vector, elements(src))


@instruction
def bn_stats(dst: Any, data: Any, name: str | None = None) -> None:
    """(count, mean, variance x count) of the even and of the odd elements."""
    dst, data = tile(dst, "dst"), tile(data, "data")
    size = elements(data)
    require(
        size <= BN_STATS_ELEMENTS,
        "data",
        f"has {size} elements per partition, at most {BN_STATS_ELEMENTS} are allowed",
    )
    require(
        dst.shape[0] == data.shape[0], "dst", f"has {dst.shape[0]} partitions, data {data.shape[0]}"
    )
    require(elements(dst) == 6, "dst", f"has {elements(dst)} elements per partition, must have 6")
    x = flat32(data)
    parts = []
    for half in (x[:, 0::2], x[:, 1::2]):
        n = half.shape[1]
        mean = half.mean(axis=1, dtype=np.float32) if n else np.zeros(len(x), np.float32)
        spread = np.square(half - mean[:, None]).sum(axis=1, dtype=np.float32)
        parts += [np.full(len(x), n, np.float32), mean, spread]
    dst.write(np.stack(parts, axis=1))
    count(Engine.vector, size)


@instruction
def bn_aggr(dst: Any, data: Any, name: str | None = None) -> None:
    """Mean and variance of what several :func:`bn_stats` have seen."""
    dst, data = tile(dst, "dst"), tile(data, "data")
    require(elements(data) % 3 == 0, "data", f"has {elements(data)} elements, no multiple of 3")
    require(
        dst.shape[0] == data.shape[0], "dst", f"has {dst.shape[0]} partitions, data {data.shape[0]}"
    )
    require(elements(dst) == 2, "dst", f"has {elements(dst)} elements per partition, must have 2")
    counts, means, spreads = np.moveaxis(flat32(data).reshape(data.shape[0], -1, 3), -1, 0)
    total = counts.sum(axis=1)
    mean = (counts * means).sum(axis=1) / total
    variance = (spreads + counts * np.square(means - mean[:, None])).sum(axis=1) / total
    dst.write(np.stack([mean, variance], axis=1).astype(np.float32))
    count(Engine.vector, elements(data))
