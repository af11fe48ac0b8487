"""What a check and a cost are."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from neuron.emulator.cost import Report
from neuron.emulator.targets import Target
from neuron.nki import BACKEND, nki

FLOAT32 = 1e-5
"""Relative RMS error allowed in float32."""

GRADIENT = 1e-4
"""Relative RMS error allowed in gradients in float32."""

BFLOAT16 = 2 * 2.0**-8
"""Relative RMS error allowed in bfloat16: two steps of its rounding."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """One result of a kernel beside what it should be.

    Attributes:
      name: of the result.
      error: root mean square of the difference, relative to that of what is expected.
      limit: the most that is allowed; an error that is not a number is never allowed.
    """

    name: str
    error: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether the error is within its limit."""
        return bool(self.error <= self.limit)


@dataclasses.dataclass(frozen=True)
class Check:
    """A kernel at one size.

    Attributes:
      kernel: its name.
      case: the size, in words.
      run: runs it and what it must agree with.
    """

    kernel: str
    case: str
    run: Callable[[], list[Compared]]


@dataclasses.dataclass(frozen=True)
class Bound:
    """What no kernel could do with less of, by the emulator's rules of thumb.

    Attributes:
      cycles: of each engine, for the instructions that the method can't do without; names
        joined by ``+`` share their work between them.
      bytes: moved between HBM and the chip if each operand is read and each result is
        written once.
    """

    cycles: dict[str, float]
    bytes: int

    def seconds(self, target: Target) -> dict[str, float]:
        """The least time of each engine, of engines that share, and of ``dma``."""
        least = {
            names: cycles / sum(target.ghz(name) * 1e9 for name in names.split("+"))
            for names, cycles in self.cycles.items()
        }
        speed = min(target.hbm_bytes_per_second, target.dma_bytes_per_second)
        return least | {"dma": self.bytes / speed}


@dataclasses.dataclass(frozen=True)
class Cost:
    """A kernel at a size at which its cost matters.

    Attributes:
      kernel: its name.
      case: the size, in words.
      run: runs it in the emulator; what it cost and its bound.
    """

    kernel: str
    case: str
    run: Callable[[], tuple[Report, Bound]]


def distance(found: Any, expected: Any) -> float:
    """Root mean square of the difference, relative to that of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"the result is {found.shape}, expected is {expected.shape}")
    scale = max(float(np.mean(expected**2)), 1e-30)
    return float(np.sqrt(np.mean((found - expected) ** 2) / scale))


def run(kernel: Any, *arguments: Any, programs: int | None = None, **options: Any) -> Any:
    """A kernel's results, launched on ``programs`` cores if that is given."""
    return nki.simulate(kernel if programs is None else kernel[programs])(*arguments, **options)


def measure(kernel: Any, *arguments: Any, **options: Any) -> Report:
    """What a kernel cost in the emulator.

    Raises:
      RuntimeError: the real NKI is in use, which does not count.
    """
    if BACKEND != "emulator":
        raise RuntimeError("costs are counted by the emulator only; set BMOJO_NKI=emulator")
    simulation = nki.simulate(kernel)
    simulation(*arguments, **options)
    report: Report = simulation.reports[0]
    return report


def time_last(x: Any) -> np.ndarray:
    """(batch, time, ...) as (batch, ..., time)."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(x), 1, -1))


def wide(x: Any) -> jax.Array:
    """An array in float32."""
    return jnp.asarray(np.asarray(x, np.float32))


def dtype_of(name: str) -> np.dtype:
    """The dtype of a name, bfloat16 among them."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def nbytes(*arrays: Any) -> int:
    """Bytes of arrays together."""
    return sum(np.asarray(x).nbytes for x in arrays)


def marks(batch: int, length: int, starts: Sequence[int]) -> np.ndarray | None:
    """Flags (batch, length) at the first tokens of documents; None where there are none.

    Row 0 has all of ``starts``, the others only the last.
    """
    if not starts:
        return None
    flags = np.zeros((batch, length), bool)
    flags[0, list(starts)] = True
    flags[1:, starts[-1]] = True
    return flags


def gradients(
    function: Callable[..., Any], arrays: dict[str, Any], names: Sequence[str], pulled: Any
) -> dict[str, jax.Array]:
    """Derivatives of ``function(*arrays[names])`` in float32, from the gradient of its result."""

    @jax.jit
    def compute(*operands: jax.Array) -> Any:
        return jax.vjp(function, *operands)[1](jax.tree.map(wide, pulled))

    return dict(zip(names, compute(*(wide(arrays[n]) for n in names)), strict=True))
