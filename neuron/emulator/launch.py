"""Launching kernels: ``jit``, ``simulate``, and two programs of one launch in turn.

Programs take turns: one runs until it waits for the other or ends, so that the same launch
gives the same result each time. What two programs do to the same element without a barrier
between is found by marks on the memory, not by chance.
"""

import dataclasses
import functools
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from neuron.emulator import cost, dtypes, session
from neuron.emulator.memory import MemoryRegion, Storage, filled
from neuron.emulator.rules import RaceError, RuleError
from neuron.emulator.targets import Target, resolve
from neuron.emulator.tensors import Tensor

DEGREE_VARIABLE = "NEURON_LOGICAL_NC_CONFIG"
DEGREES = (1, 2)


class Kernel:
    """A function decorated with :func:`jit`.

    Args:
      function: the kernel's body.
      degree: programs of a launch; None: one, launched without a degree.
    """

    def __init__(self, function: Callable[..., Any], degree: int | None = None):
        self.function, self.degree = function, degree
        functools.update_wrapper(self, function)

    def __getitem__(self, degree: Any) -> "Kernel":
        """The kernel launched on that many cores: 1 or 2."""
        name = f"{self.function.__name__}[{degree!r}]"
        if isinstance(degree, tuple):
            if len(degree) != 1:
                raise RuleError(name, "degree", "a launch has one axis")
            degree = degree[0]
        if degree not in DEGREES:
            raise RuleError(name, "degree", f"must be one of {DEGREES}")
        configured = os.environ.get(DEGREE_VARIABLE)
        if configured and int(configured) != degree:
            raise RuleError(name, "degree", f"differs from {DEGREE_VARIABLE}={configured}")
        return Kernel(self.function, int(degree))

    def with_schedule(self, edges: Any) -> "Kernel":
        """The kernel itself: here instructions run in the order of the program."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on arrays, as :func:`simulate` does."""
        if session.running() is not None:
            raise RuleError(
                self.function.__name__, "call", "a kernel can't call a kernel; call plain functions"
            )
        return simulate(self)(*args, **kwargs)


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a function a kernel."""
    if options:
        raise RuleError("nki.jit", ", ".join(options), "is no option; set the environment instead")
    if function is None:
        return jit
    return Kernel(function)


class Simulation:
    """A kernel that runs on arrays.

    Args:
      kernel: a kernel or a plain function.
      target: name of the target; None: that of the environment, or trn2.

    Attributes:
      reports: what each program of the last call cost.
    """

    def __init__(self, kernel: Any, target: str | None = None):
        self.kernel = kernel if isinstance(kernel, Kernel) else Kernel(kernel)
        self.target = target
        self.reports: list[cost.Report] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernel; arrays are its HBM tensors and change if it writes them.

        Returns:
          What the kernel returns, tensors as NumPy arrays.

        Raises:
          RuleError: the kernel broke a rule.
        """
        if session.running() is not None:
            raise RuleError("nki.simulate", "call", "is not for use inside a kernel")
        launch = Launch(self.kernel, resolve(self.target))
        try:
            return launch.run(args, kwargs)
        finally:
            self.reports = launch.reports


def simulate(kernel: Any, target: str | None = None) -> Simulation:
    """A callable that runs a kernel on NumPy arrays, here and now."""
    return Simulation(kernel, target)


@dataclasses.dataclass
class _Argument:
    """An array that a kernel was given, and its tensor."""

    array: Any
    tensor: Tensor


class Launch:
    """One run of a kernel's programs.

    Args:
      kernel: what to run.
      target: on what.

    Attributes:
      reports: what each program cost, once it has run.
    """

    def __init__(self, kernel: Kernel, target: Target):
        self.kernel, self.target = kernel, target
        self.count = kernel.degree or 1
        self.reports: list[cost.Report] = []
        self.shared: list[Storage] = []
        self.arguments: list[_Argument] = []
        self.turns = _Turns(self.count)
        self.name = kernel.function.__name__
        if self.count > 1 and target.generation < 3:
            raise RuleError(self.name, "degree", f"2 needs gen3, the target is {target.name}")

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run all programs and give what the first one returns."""
        try:
            bound = inspect.signature(self.kernel.function).bind(*args, **kwargs)
        except TypeError as error:
            raise RuleError(self.name, "arguments", str(error)) from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._input(name, value)
        mailbox: dict[Any, np.ndarray] = {}
        programs = [self._program(i, mailbox) for i in range(self.count)]
        results: list[Any] = [None] * self.count

        def body(i: int) -> None:
            session.enter(programs[i])
            try:
                results[i] = self.kernel.function(*bound.args, **bound.kwargs)
            finally:
                session.enter(None)

        try:
            self.turns.run(body)
        finally:
            self.reports = [
                cost.report(p.counter, p.sbuf.high_water, p.psum.high_water) for p in programs
            ]
        self._same_trace(programs)
        for argument in self.arguments:
            written = argument.tensor.storage
            if isinstance(argument.array, np.ndarray) and argument.array.flags.writeable:
                argument.array[...] = _array(Tensor.whole(written)).reshape(argument.array.shape)
        return self._output("return value", results[0])

    def _program(self, index: int, mailbox: dict[Any, np.ndarray]) -> session.Program:
        order = iter(range(1 << 62))

        def shared_hbm(shape: tuple[int, ...], dtype: str, name: str) -> Storage:
            n = next(order)
            if n == len(self.shared):
                storage = Storage(shape, dtype, MemoryRegion.shared_hbm, name)
                if self.count > 1:
                    storage.share()
                self.shared.append(storage)
            storage = self.shared[n]
            session.require(
                storage.shape == shape and storage.dtype == dtype,
                name or "tensor",
                f"shared allocation {n} is {shape} {dtype} in program {index} and "
                f"{storage.shape} {storage.dtype} in the other",
            )
            return storage

        program = session.Program(
            self.target,
            index,
            self.count,
            self.kernel.degree is not None,
            shared_hbm,
            functools.partial(self.turns.wait, index),
        )
        program.op, program.mailbox = self.name, mailbox
        return program

    def _input(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            raise RuleError(self.name, name, "is a list; pass a tuple")
        if isinstance(value, tuple):
            return tuple(self._input(name, part) for part in value)
        if isinstance(value, np.generic | type) or not hasattr(value, "__array__"):
            return value
        array = np.asarray(value)
        try:
            kind = dtypes.name_of(array.dtype)
        except ValueError as error:
            raise RuleError(self.name, name, str(error)) from None
        if array.ndim == 0 or array.size == 0:
            raise RuleError(self.name, name, f"has the shape {array.shape}; it needs elements")
        storage = filled(array, kind, MemoryRegion.shared_hbm, name)
        storage.external = True
        if self.count > 1:
            storage.share()
        tensor = Tensor.whole(storage)
        self.arguments.append(_Argument(value, tensor))
        return tensor

    def _output(self, operand: str, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(self._output(f"{operand}[{i}]", part) for i, part in enumerate(value))
        if not isinstance(value, Tensor):
            raise RuleError(
                self.name, operand, f"must be a tensor or a tuple of tensors, got {value!r}"
            )
        if value.buffer is not MemoryRegion.shared_hbm:
            raise RuleError(
                self.name, operand, f"is in {value.buffer.value}, must be in shared_hbm"
            )
        assert value.storage.written is not None
        missing = ~value.marks(value.storage.written).all(axis=-1)
        if missing.any():
            place = tuple(int(i) for i in np.argwhere(missing)[0])
            raise RuleError(
                self.name,
                operand,
                f"{int(missing.sum())} of {value.size} elements were never written, the first at "
                f"{place}",
            )
        return _array(value)

    def _same_trace(self, programs: list[session.Program]) -> None:
        if self.count == 1:
            return
        a, b = programs[0].trace, programs[1].trace
        if a == b:
            return
        n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), -1)
        n = min(len(a), len(b)) if n < 0 else n
        first, second = ((t[n] if n < len(t) else "nothing") for t in (a, b))
        raise RuleError(
            self.name,
            "programs",
            f"must issue the same instructions; number {n} is {first} in program 0 and {second} "
            "in program 1",
        )


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor's content as an array of its own."""
    array = tensor.array().copy()
    return array.astype(bool) if tensor.dtype == "bool_" else array


class _Turns:
    """Programs that run one at a time, each until it waits or ends.

    Args:
      count: of programs.
    """

    def __init__(self, count: int):
        self.count = count
        self.condition = threading.Condition()
        self.turn = 0
        self.points: list[str | None] = [None] * count
        self.ended = [False] * count
        self.error: BaseException | None = None

    def run(self, body: Callable[[int], None]) -> None:
        """Run ``body(i)`` for every program i, and raise the first error."""
        if self.count == 1:
            body(0)
            return

        def guarded(i: int) -> None:
            try:
                self._await_turn(i)
                body(i)
            except _Stop:
                pass
            except BaseException as error:
                with self.condition:
                    self.error = self.error or error
            finally:
                with self.condition:
                    self.ended[i] = True
                    self._pass(i)

        threads = [threading.Thread(target=guarded, args=(i,)) for i in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def wait(self, index: int, point: str) -> None:
        """Block a program until the others wait at the same point."""
        with self.condition:
            self.points[index] = point
            others = [i for i in range(self.count) if i != index]
            if all(self.points[i] == point for i in others):
                self.points = [None] * self.count
                return
            for i in others:
                if self.ended[i] or self.points[i] is not None:
                    raise RaceError(
                        session.op_name(),
                        "programs",
                        f"program {index} waits at {point}, program {i} "
                        + ("has ended" if self.ended[i] else f"waits at {self.points[i]}"),
                    )
            self._pass(index)
        self._await_turn(index)

    def _pass(self, index: int) -> None:
        self.turn = next(
            (i for i in range(self.count) if i != index and not self.ended[i]), self.turn
        )
        self.condition.notify_all()

    def _await_turn(self, index: int) -> None:
        with self.condition:
            self.condition.wait_for(lambda: self.turn == index or self.error is not None)
            if self.error is not None:
                raise _Stop
            point = self.points[index]
            if point is not None and any(self.ended[i] for i in range(self.count) if i != index):
                self.points[index] = None
                raise RaceError(
                    session.op_name(),
                    "programs",
                    f"program {index} waits at {point}, the other program has ended",
                )


class _Stop(Exception):
    """Another program failed; this one has nothing left to do."""
