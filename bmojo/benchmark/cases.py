"""What is measured, and what must hold before it is."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bmojo.errors import UserError

__all__ = ["Case", "Check", "WrongError", "difference", "limit", "require"]

LIMITS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 2e-2}


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison that a case has to pass before it is timed.

    Attributes:
      case: what is checked.
      what: what is compared with what.
      difference: what was found, NaN where something was not finite.
      limit: the most that is allowed.
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
    """Something computes a wrong result, and so is not timed.

    Attributes:
      checks: all that were made, good ones too.
    """

    exit_code = 1

    def __init__(self, checks: Sequence[Check]):
        self.checks = tuple(checks)
        wrong = [check for check in checks if not check.passed]
        first = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        super().__init__(
            f"{first.case}: {first.what} differs by {first.difference:.2e}, allowed are "
            f"{first.limit:.0e}{more}; nothing was timed"
        )


def require(checks: Sequence[Check]) -> None:
    """Raise :class:`WrongError` unless all checks passed."""
    if not all(check.passed for check in checks):
        raise WrongError(checks)


def difference(found: Any, expected: Any) -> float:
    """Root of the mean squared difference relative to the expected values' own; at least 0.

    The mean is over all entries of an array. Of nothing but zeros the difference is absolute.
    NaN if the shapes differ or a value is not finite.
    """
    one, other = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan
    scale = math.sqrt(np.mean(other**2)) if other.size else 0.0
    error = math.sqrt(np.mean((one - other) ** 2)) if other.size else 0.0
    return error / scale if scale else error


def limit(dtype: str) -> float:
    """The difference that rounding may make in a computation in ``dtype``."""
    return LIMITS[dtype]


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
      name: unique in its group.
      group: the table that it belongs to.
      run: does it once and returns when it is done. It may return the seconds it took, where
        they are taken elsewhere.
      units: parts of a call that a sample is divided by: tokens, layers.
      baseline: name of the case of the same group to compare with.
      compile_seconds: time to compile it.
      temporary_bytes: what XLA reserves beside arguments and results.
      flops: operations of one unit, counted by formula.
      xla_flops: operations of a whole call as XLA counts them; it counts the body of a loop
        once.
      facts: further columns of its table.
      calls: of a sample; None: as many as make it long enough to be timed.
      pause: seconds to wait before each sample, where another process has just computed; then
        a call that is not measured comes before the one that is.
      fresh: each call is a process of its own, which one call before the samples is enough for.
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
