"""VectorE: exponentials and selections that also reduce into the accumulator registers."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.accumulators import (
    ACCUMULATING,
    accumulate,
    disturb,
    read_out,
    registers,
)
from neuron.emulator.isa.common import (
    apply,
    column,
    count,
    dtype_in,
    elements,
    flag,
    flat,
    flat32,
    generation,
    instruction,
    integer,
    member,
    not_both_psum,
    number,
    reduction,
    require,
    same_layout,
    scalar_or_column,
    tile,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.isa.enums import reduce_cmd as Command
from neuron.emulator.operators import BY_NAME, COMPARISONS, Operator
from neuron.emulator.tensors import Tensor

FP32_MIN = float(np.finfo(np.float32).min)
LARGEST_FLOAT_INDEX = 2**24


@instruction
def exponential(
    dst: Any,
    src: Any,
    max_value: Any = 0.0,
    reduce_res: Any = None,
    reduce_cmd: Any = Command.idle,
    reduce_init: Any = 0.0,
    name: str | None = None,
) -> None:
    """``dst = exp(src - max_value)`` and its sum; gen4 only."""
    generation(4)
    dst, src = tile(dst, "dst"), tile(src, "src")
    same_layout("src", src=src, dst=dst)
    member(reduce_cmd, "reduce_cmd", Command, (Command.idle, *ACCUMULATING))
    value = np.exp(flat32(src) - scalar_or_column(max_value, "max_value", src))
    add = BY_NAME["add"]
    registers(reduce_cmd, add, reduce_init, src, "reduce_init")
    dst.write(value)
    if reduce_cmd is Command.idle:
        disturb(src)
    else:
        accumulate(add, value, src)
    read_out(reduce_res, src)
    count(Engine.vector, elements(src))


@instruction
def range_select(
    dst: Any,
    on_true_tile: Any,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Any,
    bound1: Any,
    reduce_cmd: Any = Command.reset_reduce,
    reduce_res: Any = None,
    reduce_op: Any = BY_NAME["maximum"],
    range_start: int = 0,
    on_false_value: float = FP32_MIN,
    name: str | None = None,
) -> None:
    """Element j where ``range_start + j`` holds both comparisons, FP32_MIN elsewhere."""
    generation(3)
    dst, data = tile(dst, "dst"), tile(on_true_tile, "on_true_tile")
    same_layout("on_true_tile", on_true_tile=data, dst=dst)
    dtype_in(data, "on_true_tile", dtypes.FLOATS)
    op = reduction(reduce_op, "reduce_op", ("maximum",))
    member(reduce_cmd, "reduce_cmd", Command, (Command.idle, Command.reset_reduce, Command.reduce))
    start = integer(range_start, "range_start")
    last = start + elements(data) - 1
    require(
        max(abs(start), abs(last)) <= LARGEST_FLOAT_INDEX,
        "range_start",
        f"index {last} is beyond {LARGEST_FLOAT_INDEX}, where float32 stops counting",
    )
    require(
        np.float32(number(on_false_value, "on_false_value")) == np.float32(FP32_MIN),
        "on_false_value",
        f"is {on_false_value}, the hardware knows only FP32_MIN, {FP32_MIN}",
    )
    index = (np.arange(elements(data)) + start).astype(np.float32)[None]
    chosen = np.ones((data.shape[0], elements(data)), bool)
    for operand, comparison, bound_operand, bound in (
        ("comp_op0", comp_op0, "bound0", bound0),
        ("comp_op1", comp_op1, "bound1", bound1),
    ):
        compare = reduction(comparison, operand, COMPARISONS)
        limit = flat32(column(bound, bound_operand, data, ("float32",)))
        chosen &= apply(compare, index, limit) != 0
    value = np.where(chosen, flat32(data), np.float32(FP32_MIN))
    _select(dst, value, data, reduce_cmd, op, reduce_res)
    count(Engine.vector, elements(data))


def _select(
    dst: Tensor, value: np.ndarray, data: Tensor, command: Command, op: Operator, res: Any
) -> None:
    registers(command, op, None, data, "reduce_init")
    dst.write(value)
    if command is Command.idle:
        disturb(data)
    else:
        accumulate(op, value, data)
    read_out(res, data)


@instruction
def select_reduce(
    dst: Any,
    predicate: Any,
    on_true: Any,
    on_false: Any,
    reduce_res: Any = None,
    reduce_cmd: Any = Command.idle,
    reduce_op: Any = BY_NAME["maximum"],
    reverse_pred: bool = False,
    name: str | None = None,
) -> None:
    """on_true where the predicate is not zero, on_false elsewhere, and the maximum."""
    dst, predicate, data = tile(dst, "dst"), tile(predicate, "predicate"), tile(on_true, "on_true")
    same_layout("on_true", on_true=data, predicate=predicate, dst=dst)
    not_both_psum(on_true=data, predicate=predicate)
    dtype_in(predicate, "predicate", ("int8", "uint8", "int16", "uint16"))
    dtype_in(data, "on_true", [n for n in dtypes.NAMES if n not in ("tfloat32", "int32", "uint32")])
    op = reduction(reduce_op, "reduce_op", ("maximum",))
    member(reduce_cmd, "reduce_cmd", Command, (Command.idle, Command.reset_reduce, Command.reduce))
    chosen = (flat(predicate) != 0) ^ flag(reverse_pred, "reverse_pred")
    value = np.where(chosen, flat32(data), scalar_or_column(on_false, "on_false", data, None))
    _select(dst, np.asarray(value, np.float32), data, reduce_cmd, op, reduce_res)
    count(Engine.vector, 2 * elements(data))
