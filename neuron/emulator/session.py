"""The program that is running: its target, memories, engine registers and counters."""

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from neuron.emulator.cost import Counter
from neuron.emulator.memory import Arena, Storage
from neuron.emulator.rules import RuleError
from neuron.emulator.targets import PARTITIONS, Target


class Program:
    """One run of a kernel's body on one core.

    Args:
      target: what the core is.
      index: which program of the launch this is.
      count: how many there are.
      has_grid: the kernel was launched with a degree, as in ``kernel[2]``.
      shared_hbm: gives the storage of the n-th shared allocation, the same for all programs.
      wait: blocks until the other programs reach the same point.

    Attributes:
      op: the instruction that is running, for errors.
      vector_registers: VectorE's accumulators; NaN where their content is undefined.
        Likewise ``scalar_registers`` of ScalarE.
      trace: names of the instructions issued so far.
    """

    def __init__(
        self,
        target: Target,
        index: int = 0,
        count: int = 1,
        has_grid: bool = False,
        shared_hbm: Callable[..., Storage] | None = None,
        wait: Callable[[str], None] | None = None,
    ):
        self.target, self.index, self.count, self.has_grid = target, index, count, has_grid
        self.shared_hbm, self.wait = shared_hbm, wait
        self.sbuf = Arena("SBUF", target.sbuf_bytes)
        self.psum = Arena("PSUM", target.psum_bytes)
        self.vector_registers = np.full(PARTITIONS, np.nan, np.float32)
        self.scalar_registers = np.full(PARTITIONS, np.nan, np.float32)
        self.counter = Counter(target)
        self.op = "kernel"
        self.trace: list[str] = []
        self.mailbox: dict[Any, np.ndarray] = {}


_local = threading.local()


def enter(program: Program | None) -> None:
    """Make a program the running one of this thread; None: none is."""
    _local.program = program


def running() -> Program | None:
    """The program that this thread runs, if any."""
    return getattr(_local, "program", None)


def current() -> Program:
    """The program that this thread runs.

    Raises:
      RuleError: no kernel is running.
    """
    program = running()
    if program is None:
        raise RuleError("nki", "call", "only a kernel may do this; run it by nki.simulate(kernel)")
    return program


def op_name() -> str:
    """The instruction that is running, for errors."""
    program = running()
    return program.op if program else "nki"


def fail(operand: str, problem: str) -> NoReturn:
    """Raise a :class:`RuleError` that names the running instruction."""
    raise RuleError(op_name(), operand, problem)


def require(condition: bool, operand: str, problem: str) -> None:
    """Raise a :class:`RuleError` unless a condition holds."""
    if not condition:
        fail(operand, problem)
