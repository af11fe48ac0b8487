"""What instructions share: binding of arguments, checks of operands, rounding, counting.

The checks raise a :class:`~neuron.emulator.rules.RuleError` that names the running
instruction.
"""

import enum
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from neuron.emulator import dtypes, patterns, session
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.memory import QUADRANT, MemoryRegion
from neuron.emulator.operators import Operator
from neuron.emulator.rules import NotEmulatedError, RuleError
from neuron.emulator.session import current, require
from neuron.emulator.targets import PARTITIONS
from neuron.emulator.tensors import Tensor

SBUF = (MemoryRegion.sbuf,)
PSUM = (MemoryRegion.psum,)
CHIP = (MemoryRegion.sbuf, MemoryRegion.psum)
MOST_FREE_AXES = 4

Function = TypeVar("Function", bound=Callable[..., Any])


def instruction(function: Function) -> Function:
    """Make a function an instruction: check its arguments' names and note that it runs.

    Views with one dynamic offset are resolved before the function sees them, unless it is a
    DMA, which may skip them.
    """
    signature = inspect.signature(function)
    dma = function.__module__.endswith(".dma")

    @functools.wraps(function)
    def issue(*args: Any, **kwargs: Any) -> Any:
        op = f"nisa.{function.__name__}"
        program = session.running()
        if program is None:
            raise RuleError(op, "call", "only a kernel may issue instructions; use nki.simulate")
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise RuleError(op, "arguments", f"{error}; it takes {signature}") from None
        outer, program.op = program.op, op
        try:
            if not dma:
                for name, value in bound.arguments.items():
                    if isinstance(value, Tensor) and value.dynamic is not None:
                        bound.arguments[name] = patterns.resolve(value)
            program.trace.append(function.__name__)
            with np.errstate(all="ignore"):
                return function(*bound.args, **bound.kwargs)
        finally:
            program.op = outer

    return issue  # type: ignore[return-value]


# Operands.


def tensor(value: Any, operand: str, regions: Iterable[MemoryRegion]) -> Tensor:
    """A tensor in one of some regions."""
    require(isinstance(value, Tensor), operand, f"must be a tensor, got {value!r}")
    allowed = tuple(regions)
    require(
        value.buffer in allowed,
        operand,
        f"is in {value.buffer.value}, must be in {' or '.join(r.value for r in allowed)}",
    )
    return value


def tile(value: Any, operand: str, regions: Iterable[MemoryRegion] = CHIP) -> Tensor:
    """An on-chip operand of an engine: few free axes, and partitions it can address."""
    view = tensor(value, operand, regions)
    axes = _free_axes(view)
    require(
        axes <= MOST_FREE_AXES,
        operand,
        f"has {axes} free axes that don't merge, an instruction takes at most {MOST_FREE_AXES}",
    )
    count, start = view.shape[0], view.partition
    step = PARTITIONS if count > 2 * QUADRANT else 2 * QUADRANT if count > QUADRANT else QUADRANT
    require(
        start % step == 0,
        operand,
        f"{count} partitions start at partition {start}, an engine can start them at multiples "
        f"of {step} only; move them by DMA or matmul",
    )
    return view


def _free_axes(view: Tensor) -> int:
    """Free axes left after those that follow one another are merged."""
    axes = 0
    expected = None
    for size, stride in reversed(list(zip(view.shape[1:], view.strides[1:], strict=True))):
        if size == 1:
            continue
        if stride != expected:
            axes += 1
        expected = stride * size
    return axes


def elements(view: Tensor) -> int:
    """Elements in each partition."""
    return view.size // view.shape[0]


def same_partitions(**views: Tensor) -> None:
    """All operands have the partitions of the first one."""
    first, base = next(iter(views.items()))
    for operand, view in views.items():
        require(
            view.shape[0] == base.shape[0],
            operand,
            f"has {view.shape[0]} partitions, {first} has {base.shape[0]}; they must agree",
        )


def same_layout(first: str, **views: Tensor | None) -> None:
    """All operands have the partitions and the elements per partition of the first one."""
    base = views[first]
    assert base is not None
    for operand, view in views.items():
        if view is None or view is base:
            continue
        require(
            view.shape[0] == base.shape[0],
            operand,
            f"has {view.shape[0]} partitions, {first} has {base.shape[0]}; they must agree",
        )
        require(
            elements(view) == elements(base),
            operand,
            f"has {elements(view)} elements per partition, {first} has {elements(base)}; there "
            "is no broadcasting",
        )


def column(value: Any, operand: str, base: Tensor, allowed: Iterable[str] | None = None) -> Tensor:
    """A tile of one element for each partition of another operand."""
    view = tile(value, operand)
    require(
        view.shape[0] == base.shape[0] and elements(view) == 1,
        operand,
        f"must have the shape ({base.shape[0]}, 1), has {view.shape}",
    )
    if allowed is not None:
        dtype_in(view, operand, allowed)
    return view


def scalar_or_column(
    value: Any, operand: str, base: Tensor, allowed: Iterable[str] | None = ("float32",)
) -> np.ndarray:
    """A number, or a column, as float32 that broadcasts over (partitions, elements)."""
    if isinstance(value, Tensor):
        return flat32(column(value, operand, base, allowed))
    return np.float32(number(value, operand))  # type: ignore[return-value]


def number(value: Any, operand: str) -> float | int:
    """A Python or NumPy number."""
    require(
        isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool),
        operand,
        f"must be a number, got {value!r}",
    )
    return value


def integer(value: Any, operand: str) -> int:
    """An integer that fits 32 bits."""
    require(
        isinstance(value, int | np.integer) and not isinstance(value, bool),
        operand,
        f"must be an integer, got {value!r}",
    )
    require(-(2**31) <= value < 2**31, operand, f"{value} does not fit 32 bits")
    return int(value)


def flag(value: Any, operand: str) -> bool:
    """True or False."""
    require(isinstance(value, bool | np.bool_), operand, f"must be True or False, got {value!r}")
    return bool(value)


def dtype_in(view: Tensor, operand: str, allowed: Iterable[str]) -> None:
    """The operand's dtype is one of some."""
    names = tuple(allowed)
    require(view.dtype in names, operand, f"is {view.dtype}, must be {' or '.join(names)}")


def not_both_psum(**views: Tensor) -> None:
    """VectorE has one way into PSUM: at most one input may be there."""
    names = [name for name, view in views.items() if view.buffer is MemoryRegion.psum]
    require(len(names) < 2, " and ".join(names), "are both in psum, at most one input may be")


def member(value: Any, operand: str, kind: type[enum.Enum], allowed: Iterable[Any] = ()) -> Any:
    """A member of an enumeration, if given one of some."""
    require(
        isinstance(value, kind), operand, f"must be a nisa.{kind.__name__} member, got {value!r}"
    )
    choices = tuple(allowed)
    require(
        not choices or value in choices,
        operand,
        f"is {value.name}, must be {' or '.join(c.name for c in choices)}",
    )
    return value


def choose_engine(value: Any, allowed: Iterable[Engine], default: Engine) -> Engine:
    """The engine asked for, or the default where none is."""
    member(value, "engine", Engine, (*allowed, Engine.unknown))
    return default if value is Engine.unknown else value


def generation(least: int) -> None:
    """The target is of a generation that has the instruction."""
    target = current().target
    require(
        target.generation >= least, "target", f"is {target.name}, the instruction needs gen{least}"
    )


# Operators.


def operator(value: Any, operand: str) -> Operator:
    """An operator of ``nl`` that the target has."""
    require(isinstance(value, Operator), operand, f"must be an operator of nl, got {value!r}")
    target = current().target
    require(
        target.generation >= value.generation,
        operand,
        f"nl.{value.name} needs gen{value.generation}, the target is {target.name}",
    )
    return value


def arithmetic(value: Any, operand: str) -> Operator:
    """An operator on two float32 operands."""
    op = operator(value, operand)
    require(op.binary is not None, operand, f"nl.{op.name} is no arithmetic of two operands")
    return op


def reduction(value: Any, operand: str, allowed: Iterable[str]) -> Operator:
    """An operator that may reduce."""
    op = operator(value, operand)
    names = tuple(allowed)
    require(op.name in names, operand, f"is nl.{op.name}, must be {' or '.join(names)}")
    return op


def apply(op: Operator, left: Any, right: Any, reverse: bool = False) -> np.ndarray:
    """Float32 arithmetic of two operands."""
    assert op.binary is not None
    a, b = (right, left) if reverse else (left, right)
    return np.asarray(op.binary(np.asarray(a, np.float32), np.asarray(b, np.float32)), np.float32)


# Values.


def flat(view: Tensor) -> np.ndarray:
    """The elements in their own dtype, as (partitions, elements)."""
    return view.read().reshape(view.shape[0], -1)


def flat32(view: Tensor) -> np.ndarray:
    """The elements as float32, as (partitions, elements)."""
    return flat(view).astype(np.float32)


def span(view: Tensor) -> slice:
    """The engine lanes that a tile uses."""
    return slice(view.partition, view.partition + view.shape[0])


def count(engine: Engine, columns: float) -> None:
    """Count the running instruction as work of an engine."""
    program = current()
    program.counter.compute(program.op, engine.name, columns)


def is_integer32(*views: Tensor) -> bool:
    """All operands are 32-bit integers."""
    return all(view.dtype in ("int32", "uint32") for view in views)


def need_integers(operand: str, *views: Tensor) -> None:
    """Operators on bits take integers, all of one dtype."""
    for view in views:
        require(
            not dtypes.is_float(view.dtype),
            operand,
            f"works on bits, which needs integer tiles; one is {view.dtype}",
        )


def unsupported(operand: str, problem: str) -> None:
    """Raise: the hardware can do it, the emulator can't."""
    raise NotEmulatedError(session.op_name(), operand, problem)
