"""VectorE's accumulator registers, one for each lane, shared by several instructions."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.common import apply, column, require, scalar_or_column, span
from neuron.emulator.isa.enums import reduce_cmd as Command
from neuron.emulator.operators import Operator
from neuron.emulator.session import current
from neuron.emulator.tensors import Tensor

ACCUMULATING = (Command.reset_reduce, Command.reduce, Command.load_reduce)


def fold(op: Operator, rows: np.ndarray) -> np.ndarray:
    """A float32 array reduced over its last axis, from left to right."""
    if op.name == "add":
        return rows.sum(axis=-1, dtype=np.float32)
    if op.name == "maximum":
        return rows.max(axis=-1)
    if op.name == "minimum":
        return rows.min(axis=-1)
    value = rows[..., 0]
    for i in range(1, rows.shape[-1]):
        value = apply(op, value, rows[..., i])
    return value


def registers(command: Command, op: Operator, initial: Any, data: Tensor, operand: str) -> Any:
    """The lanes' accumulators as the instruction finds them."""
    lanes = span(data)
    lane_registers = current().vector_registers
    if command is Command.reset_reduce:
        assert op.identity is not None
        lane_registers[lanes] = op.identity
    elif command is Command.load_reduce:
        require(initial is not None, operand, "is missing, reduce_cmd is load_reduce")
        lane_registers[lanes] = np.ravel(scalar_or_column(initial, operand, data))
    if command is not Command.load_reduce:
        require(
            initial is None or (not isinstance(initial, Tensor) and initial == 0),
            operand,
            f"is for load_reduce, reduce_cmd is {command.name}",
        )
    return lane_registers[lanes]


def disturb(data: Tensor) -> None:
    """An instruction that does not accumulate leaves the registers undefined."""
    current().vector_registers[span(data)] = np.nan


def accumulate(op: Operator, values: np.ndarray, data: Tensor) -> None:
    """Reduce the rows of a result into the lanes' accumulators."""
    lanes, held = span(data), current().vector_registers
    held[lanes] = apply(op, held[lanes], fold(op, values))


def read_out(reduce_res: Any, data: Tensor, allowed: Any = dtypes.FLOATS) -> None:
    """Copy the accumulators to ``reduce_res``, if there is one."""
    if reduce_res is not None:
        result = column(reduce_res, "reduce_res", data, allowed)
        result.write(current().vector_registers[span(data)].copy())
