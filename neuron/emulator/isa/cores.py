"""Registers, and what the two cores of a launch do together."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.common import (
    SBUF,
    choose_engine,
    dtype_in,
    generation,
    instruction,
    integer,
    member,
    require,
    tensor,
    tile,
)
from neuron.emulator.isa.enums import dma_engine as DmaEngine
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.isa.enums import nc_version
from neuron.emulator.memory import MemoryRegion
from neuron.emulator.session import current, fail, op_name
from neuron.emulator.tensors import Tensor


class VirtualRegister:
    """A 32-bit integer of an engine's sequencer.

    Args:
      value: None until something is moved into it.
    """

    def __init__(self, value: int | None = None):
        self.value = value

    def get(self) -> int:
        """The value, or an error if there is none."""
        if self.value is None:
            fail("register", "is read before anything was moved into it")
        return self.value

    def __bool__(self) -> bool:
        fail("truth value", "of a register isn't known at trace time; use nl.while_loop")


def get_nc_version() -> nc_version:
    """The generation of the target."""
    return nc_version(current().target.generation)


def register_alloc(x: int | None = None) -> VirtualRegister:
    """A new register, with a value if one is given."""
    return VirtualRegister(None if x is None else integer(x, "x"))


def _register(value: Any, operand: str) -> VirtualRegister:
    require(isinstance(value, VirtualRegister), operand, f"must be a register, got {value!r}")
    return value


def _one(value: Any, operand: str) -> Tensor:
    view = tensor(
        value, operand, (MemoryRegion.sbuf, MemoryRegion.private_hbm, MemoryRegion.shared_hbm)
    )
    require(view.size == 1, operand, f"must have one element, has {view.size}")
    require(not dtypes.is_float(view.dtype), operand, f"must be an integer, is {view.dtype}")
    return view


@instruction
def register_move(dst: Any, src: Any) -> None:
    """A constant or another register's value into a register."""
    target = _register(dst, "dst")
    target.value = src.get() if isinstance(src, VirtualRegister) else integer(src, "src")


@instruction
def register_load(dst: Any, src: Any) -> None:
    """One element of memory into a register."""
    _register(dst, "dst").value = int(_one(src, "src").read().reshape(()))


@instruction
def register_store(dst: Any, src: Any) -> None:
    """A register's value into one element of memory."""
    view = _one(dst, "dst")
    view.write(np.full(view.shape, _register(src, "src").get()), view.dtype)


def _together() -> None:
    generation(3)
    require(
        current().count == 2,
        "launch",
        f"has {current().count} program, the instruction needs 2: call kernel[2]",
    )


@instruction
def core_barrier(
    data: Any, cores: Any, engine: Any = Engine.gpsimd, name: str | None = None
) -> None:
    """Both cores wait for each other; what they wrote to ``data`` is then seen by both."""
    _together()
    view = tensor(data, "data", (MemoryRegion.shared_hbm,))
    require(tuple(cores) == (0, 1), "cores", f"must be (0, 1), got {cores!r}")
    choose_engine(engine, tuple(e for e in Engine if e is not Engine.unknown), Engine.gpsimd)
    wait = current().wait
    assert wait is not None
    wait(f"{op_name()} on {view.storage.label()}")
    view.storage.synchronize()
    wait(f"{op_name()} on {view.storage.label()}, its end")


@instruction
def sendrecv(
    src: Any,
    dst: Any,
    send_to_rank: int,
    recv_from_rank: int,
    pipe_id: Any,
    dma_engine: Any = DmaEngine.dma,
    name: str | None = None,
) -> None:
    """Each core sends a tile to the other's ``dst``."""
    _together()
    dst, src = tile(dst, "dst", SBUF), tile(src, "src", SBUF)
    member(dma_engine, "dma_engine", DmaEngine)
    program = current()
    other = 1 - program.index
    for operand, rank in (("send_to_rank", send_to_rank), ("recv_from_rank", recv_from_rank)):
        require(rank == other, operand, f"must be {other} in program {program.index}, got {rank}")
    require(dst.shape == src.shape, "dst", f"is {dst.shape}, src is {src.shape}")
    dtype_in(dst, "dst", (src.dtype,))
    assert program.wait is not None
    program.mailbox[program.index, pipe_id] = src.read()
    program.wait(f"{op_name()} on pipe {pipe_id}")
    message = program.mailbox.get((other, pipe_id))
    if message is None or message.shape != dst.shape:
        fail("src", f"the other program sends no tile of shape {dst.shape} on pipe {pipe_id}")
    dst.write(message, dst.dtype)
    program.wait(f"{op_name()} on pipe {pipe_id}, its end")
    size = src.size * dtypes.itemsize(src.dtype)
    program.counter.transfer(op_name(), size, size // src.shape[0], False, False)
