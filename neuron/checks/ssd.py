"""State-space duality and its gradients, against the slow oracle and ``jax.vjp``."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import reference
from bmojo.ops.ssd import ssd as operation
from neuron.checks.check import (
    BFLOAT16,
    FLOAT32,
    GRADIENT,
    Bound,
    Check,
    Compared,
    Cost,
    distance,
    dtype_of,
    gradients,
    marks,
    measure,
    nbytes,
    run,
    wide,
)
from neuron.emulator.cost import Report
from neuron.kernels.ssd import CHUNK, ssd
from neuron.kernels.ssd_backward import ssd_backward

NAMES = ("x", "dt", "A", "B", "C", "state")
Arrays = dict[str, np.ndarray]


def problem(
    batch: int,
    length: int,
    heads: int,
    width: int,
    states: int,
    seed: int = 0,
    dtype: str = "float32",
) -> Arrays:
    """Random operands by name; ``x``, ``B`` and ``C`` are of that dtype."""
    rng = np.random.default_rng(seed)
    p = {
        "x": rng.standard_normal((batch, length, heads, width)).astype(np.float32),
        "dt": np.exp(rng.normal(-2, 1, (batch, length, heads))).astype(np.float32),
        "A": -np.exp(rng.normal(0, 1, heads)).astype(np.float32),
        "B": rng.standard_normal((batch, length, states)).astype(np.float32),
        "C": rng.standard_normal((batch, length, states)).astype(np.float32),
        "state": rng.standard_normal((batch, heads, width, states)).astype(np.float32),
    }
    return {n: x.astype(dtype_of(dtype)) if n in "xBC" else x for n, x in p.items()}


def cotangents(p: Arrays, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Random gradients of y and of the last state."""
    rng = np.random.default_rng(seed)
    dy = rng.standard_normal(p["x"].shape).astype(p["x"].dtype)
    return dy, rng.standard_normal(p["state"].shape).astype(np.float32)


def forward(
    p: Arrays, start: np.ndarray | None = None, programs: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's y and last state."""
    flags = None if start is None else start.astype(np.float32)
    y, state = run(ssd, *(p[name] for name in NAMES), flags, programs=programs)
    return y, state


def expected(p: Arrays, start: np.ndarray | None = None) -> tuple[jax.Array, jax.Array]:
    """What ``bmojo.ops.reference`` gives, in float32."""
    flags = None if start is None else jnp.asarray(start)
    return reference.ssd(**{n: wide(x) for n, x in p.items()}, start=flags)


def backward(
    p: Arrays,
    dy: np.ndarray,
    dlast: np.ndarray,
    start: np.ndarray | None = None,
    programs: int | None = None,
) -> Arrays:
    """The kernel's gradients by name."""
    flags = None if start is None else start.astype(np.float32)
    given = [p[name] for name in NAMES]
    edges = run(ssd, *given, flags, True, programs=programs)[2]
    found = run(ssd_backward, *given[:-1], edges, dy, dlast, flags, programs=programs)
    dx, ddt, da, dmaps, dstate = found
    return {"x": dx, "dt": ddt, "A": da, "B": dmaps[0], "C": dmaps[1], "state": dstate}


def expected_gradients(
    function: Callable[..., Any],
    p: Arrays,
    dy: np.ndarray,
    dlast: np.ndarray,
    start: np.ndarray | None = None,
) -> dict[str, jax.Array]:
    """Derivatives by ``jax.vjp``, in float32."""
    flags = None if start is None else jnp.asarray(start)
    return gradients(lambda *o: function(*o, flags), p, NAMES, (dy, dlast))


@dataclasses.dataclass(frozen=True)
class Size:
    """A problem of state-space duality.

    Attributes:
      batch: rows.
      length: L.
      heads: H.
      width: of a head, P.
      states: N.
      starts: tokens at which documents start, see :func:`~neuron.checks.check.marks`.
      programs: cores of the launch; None: launched without a degree.
      dtype: of ``x``, ``B`` and ``C``.
    """

    batch: int
    length: int
    heads: int
    width: int
    states: int
    starts: tuple[int, ...] = ()
    programs: int | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [
            f"{self.batch}x{self.length}",
            f"{self.heads} heads of {self.width}",
            f"{self.states} states",
        ]
        words += [f"{len(self.starts)} documents start"] if self.starts else []
        words += [f"{self.programs} programs"] if self.programs else []
        return ", ".join([*words, self.dtype])

    def problem(self) -> Arrays:
        """The operands."""
        shape = (self.batch, self.length, self.heads, self.width, self.states)
        return problem(*shape, 0, self.dtype)

    def start(self) -> np.ndarray | None:
        """Where documents start."""
        return marks(self.batch, self.length, self.starts)

    def limit(self, exact: float) -> float:
        """The error that is allowed where float32 allows that one."""
        return exact if self.dtype == "float32" else BFLOAT16


def check_forward(size: Size) -> list[Compared]:
    """Compare outputs and the last state."""
    p, start = size.problem(), size.start()
    found, wanted = forward(p, start, size.programs), expected(p, start)
    limit = size.limit(FLOAT32)
    return [
        Compared(name, distance(x, want), limit)
        for name, x, want in zip(("y", "state"), found, wanted, strict=True)
    ]


def check_backward(size: Size) -> list[Compared]:
    """Compare gradients."""
    p, start = size.problem(), size.start()
    dy, dlast = cotangents(p)
    found = backward(p, dy, dlast, start, size.programs)
    wanted = expected_gradients(operation, p, dy, dlast, start)
    limit = size.limit(GRADIENT)
    return [Compared(n, distance(found[n], wanted[n]), limit) for n in NAMES]


SIZES = [
    (1, 1, 1, 1, 1),
    (2, 7, 3, 2, 5),
    (1, 128, 2, 64, 64),
    (1, 129, 5, 33, 3),
    (2, 300, 4, 16, 8),
    (1, 130, 1, 200, 4),
    (1, 5, 2, 512, 2),
    (1, 33, 9, 64, 128),
    (3, 64, 6, 32, 16),
    (1, 257, 3, 128, 7),
]
"""Batch, length, heads, width and states."""

GRID = (
    *(Size(*size) for size in SIZES),
    Size(2, 140, 3, 4, 5, starts=(0, 127, 128, 129, 139)),
    Size(1, 140, 10, 8, 4, programs=2),
    Size(1, 300, 4, 64, 8, dtype="bfloat16"),
)
"""Sizes for both directions; every one carries a state in and out."""

CHECKS = (
    *(Check("ssd", str(s), functools.partial(check_forward, s)) for s in GRID),
    *(Check("ssd_backward", str(s), functools.partial(check_backward, s)) for s in GRID),
)


def _units(size: Size) -> tuple[float, int]:
    """Heads times chunks, and how much slower a product in the dtype is than in bfloat16."""
    units = size.batch * size.heads * size.length / CHUNK
    return units, 4 if size.dtype == "float32" else 1


def cost_forward(size: Size) -> tuple[Report, Bound]:
    """What the forward kernel costs.

    Bound, for each head and chunk: three products in the operands' dtype and a sum in float32
    with zeros and ones on TensorE, transposes not counted; on VectorE what reads PSUM beside
    another tile.
    """
    p = size.problem()
    given = [p[name] for name in NAMES]
    report = measure(ssd, *given)
    units, slow = _units(size)
    cycles = {
        "tensor": units * (3 * size.width * slow + 2 * CHUNK),
        "vector": units * 4 * size.width,
    }
    return report, Bound(cycles, nbytes(*given, p["x"], p["state"]))


def cost_backward(size: Size) -> tuple[Report, Bound]:
    """What the gradients cost.

    Bound, for each head and chunk: seven products, two of them of N columns, and three sums
    on TensorE; on VectorE what reads PSUM beside another tile, and sums along rows.
    """
    p = size.problem()
    dy, dlast = cotangents(p)
    given = [p[name] for name in NAMES]
    edges = run(ssd, *given, None, True)[2]
    full = (*given[:-1], edges, dy, dlast)
    report = measure(ssd_backward, *full)
    units, slow = _units(size)
    cycles = {
        "tensor": units * ((4 * size.width + CHUNK + 2 * size.states) * slow + 6 * CHUNK),
        "vector": units * (2 * CHUNK + 7 * size.width + 4 * size.states),
    }
    maps = 4 * (p["B"].size + p["C"].size)
    return report, Bound(cycles, nbytes(*full, p["x"], p["dt"], p["A"], p["state"]) + maps)


LAYER = Size(1, 2048, 12, 128, 64)
"""The cell of Mamba-2 in a model of 130M parameters."""

COSTS = tuple(
    Cost(kernel, str(size), functools.partial(cost, size))
    for kernel, cost in (("ssd", cost_forward), ("ssd_backward", cost_backward))
    for size in (LAYER, dataclasses.replace(LAYER, dtype="bfloat16"))
)
