"""Benchmark cases, the checks that precede them, and compiled programs."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bmojo.errors import UserError

LIMITS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 2e-2}
"""Largest relative difference that rounding may make, by dtype of the computation."""

Tell = Callable[[str], None]  # reports progress


def silent(text: str) -> None:
    """Report nothing."""


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison that a case must pass before it is timed.

    ``what`` names the two things that are compared; their relative ``difference`` is NaN where a
    value was not finite.
    """

    case: str
    what: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; NaN never is."""
        return self.difference <= self.limit


class WrongError(UserError):
    """A result is wrong, and so nothing is timed."""

    exit_code = 1

    def __init__(self, checks: Sequence[Check]):
        first, *others = [check for check in checks if not check.passed]
        more = f", and {len(others)} more" if others else ""
        super().__init__(
            f"{first.case}: {first.what} differs by {first.difference:.2e}, allowed are "
            f"{first.limit:.0e}{more}; nothing was timed"
        )


def require(checks: Sequence[Check]) -> None:
    """Raise :class:`WrongError` unless all checks passed."""
    if not all(check.passed for check in checks):
        raise WrongError(checks)


def difference(found: Any, expected: Any) -> float:
    """Root mean square of the difference, relative to that of the expected values.

    The mean is over all entries. Where all expected values are 0, the difference is absolute. NaN
    if the shapes differ or a value is not finite.
    """
    one, other = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan
    if not other.size:
        return 0.0
    scale, error = (math.sqrt(np.mean(values**2)) for values in (other, one - other))
    return error / scale if scale else error


def compare(case: str, what: str, found: Any, expected: Any, dtype: str = "float32") -> Check:
    """The check that two results agree up to the rounding of ``dtype``."""
    return Check(case, what, difference(found, expected), LIMITS[dtype])


@dataclasses.dataclass(frozen=True)
class Case:
    """A computation to time.

    Attributes:
      name: unique in its group, the title of its table.
      run: computes once and returns when the result is there, or the seconds that another
        process took for it.
      units: parts of a call that a sample is divided by: tokens, layers.
      baseline: name of the case of the same group to compare with.
      temporary_bytes: memory that XLA reserves beside arguments and results.
      flops: operations of one unit by formula; ``xla_flops``: of a call, a loop's body once.
      facts: further columns of its table.
      calls: calls in a sample; None: as many as make it long enough to be timed.
      pause: seconds before each sample and a call that is not measured, where another process
        has just computed.
      fresh: each call is a process of its own; one call before the samples is enough.
    """

    name: str
    group: str
    run: Callable[[], float | None]
    units: int = 1
    baseline: str | None = None
    compile_seconds: float | None = None
    temporary_bytes: int | None = None
    flops: float | None = None
    xla_flops: float | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calls: int | None = None
    pause: float = 0.0
    fresh: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
    """A function compiled for some arguments.

    ``facts`` are arguments of :class:`Case`: ``compile_seconds`` (tracing included),
    ``temporary_bytes`` and ``xla_flops``; None where XLA gives no number.
    """

    call: Any
    facts: dict[str, Any]

    def case(self, name: str, group: str, arguments: Sequence[Any], **more: Any) -> Case:
        """The case of calling it with the same arguments again and again."""

        def run() -> None:
            jax.block_until_ready(self.call(*arguments))

        return Case(name, group, run, **self.facts, **more)


def compiled(function: Any, *arguments: Any) -> Program:
    """Compile a function, jitted or not, for arguments or their shapes."""
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    began = time.perf_counter()
    call = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    memory, cost = call.memory_analysis(), call.cost_analysis() or {}
    if isinstance(cost, list):
        cost = cost[0] if cost else {}
    facts = {
        "compile_seconds": seconds,
        "temporary_bytes": None if memory is None else int(memory.temp_size_in_bytes),
        "xla_flops": cost["flops"] if cost.get("flops", 0) > 0 else None,
    }
    return Program(call, facts)
