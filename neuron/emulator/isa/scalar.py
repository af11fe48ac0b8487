"""ScalarE: activation functions with scale, bias and a running sum."""

from typing import Any

import numpy as np

from neuron.emulator.isa.common import column as column_operand
from neuron.emulator.isa.common import (
    count,
    elements,
    flat32,
    instruction,
    member,
    operator,
    reduction,
    require,
    same_layout,
    scalar_or_column,
    span,
    tile,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.isa.enums import reduce_cmd as Command
from neuron.emulator.operators import out_of_range
from neuron.emulator.session import current
from neuron.emulator.tensors import Tensor


@instruction
def activation(
    dst: Any,
    op: Any,
    data: Any,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = Command.idle,
    name: str | None = None,
) -> None:
    """``dst = op(data * scale + bias)`` in float32, and its sum over the free axes.

    The sums live in registers: ``reset`` clears them, ``reduce`` adds this result,
    ``reset_reduce`` does both, ``idle`` leaves them alone. ``reduce_res`` reads them out.
    """
    _activate(dst, op, data, bias, scale, reduce_op, reduce_res, reduce_cmd)


@instruction
def activation_reduce(
    dst: Any,
    op: Any,
    data: Any,
    reduce_op: Any,
    reduce_res: Any,
    bias: Any = None,
    scale: Any = 1.0,
    name: str | None = None,
) -> None:
    """:func:`activation` whose sums start anew and are read out."""
    _activate(dst, op, data, bias, scale, reduce_op, reduce_res, Command.reset_reduce)


def _activate(
    dst: Any,
    op: Any,
    data: Any,
    bias: Any,
    scale: Any,
    reduce_op: Any,
    reduce_res: Any,
    command: Any,
) -> None:
    dst, data = tile(dst, "dst"), tile(data, "data")
    same_layout("data", data=data, dst=dst)
    op = operator(op, "op")
    require(op.activation is not None, "op", f"nl.{op.name} is no activation function")
    member(
        command,
        "reduce_cmd",
        Command,
        (Command.idle, Command.reset, Command.reduce, Command.reset_reduce),
    )
    value = flat32(data) * scalar_or_column(scale, "scale", data)
    if bias is not None:
        require(
            isinstance(bias, Tensor) or current().target.generation >= 3,
            "bias",
            "must be a column on gen2, got a number",
        )
        value = value + scalar_or_column(bias, "bias", data, None)
    value = np.asarray(value, np.float32)
    if (bad := out_of_range(op, value)).any():
        worst = value[bad][0]
        limits = op.valid or ("magnitude 2^-42", "2^42")
        require(
            False,
            "data",
            f"nl.{op.name} is undefined at {worst} ({int(bad.sum())} elements); it is defined "
            f"from {limits[0]} to {limits[1]}",
        )
    assert op.activation is not None
    result = np.asarray(op.activation(value), np.float32)
    registers, lanes = current().scalar_registers, span(data)
    if command in (Command.reset, Command.reset_reduce):
        registers[lanes] = 0
    if command in (Command.reduce, Command.reset_reduce):
        require(reduce_op is not None, "reduce_op", f"is missing, reduce_cmd is {command.name}")
        reduction(reduce_op, "reduce_op", ("add",))
        registers[lanes] += result.sum(axis=1, dtype=np.float32)
    elif reduce_op is not None:
        reduction(reduce_op, "reduce_op", ("add",))
    dst.write(result)
    if reduce_res is not None:
        reduce_res = column_operand(reduce_res, "reduce_res", data)
        reduce_res.write(registers[lanes].copy())
    count(Engine.scalar, elements(data))
