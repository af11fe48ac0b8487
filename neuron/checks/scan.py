"""The selective scan and its gradients, against the slow oracle and ``jax.vjp``."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops import reference
from bmojo.ops.recurrence import selective_scan as operation
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
    run,
    time_last,
    wide,
)
from neuron.emulator.cost import Report
from neuron.kernels.scan import selective_scan, tile_columns
from neuron.kernels.scan_backward import selective_scan_backward

NAMES = ("x", "dt", "A", "B", "C", "state")
TIMED = ("x", "dt", "B", "C")
Arrays = dict[str, np.ndarray]


def problem(
    batch: int, length: int, channels: int, states: int, seed: int = 0, dtype: str = "float32"
) -> Arrays:
    """Random operands by name, time second; ``x``, ``B`` and ``C`` are of that dtype."""
    rng = np.random.default_rng(seed)
    p = {
        "x": rng.standard_normal((batch, length, channels)).astype(np.float32),
        "dt": np.exp(rng.normal(-2, 1, (batch, length, channels))).astype(np.float32),
        "A": -np.exp(rng.normal(0, 1, (channels, states))).astype(np.float32),
        "B": rng.standard_normal((batch, length, states)).astype(np.float32),
        "C": rng.standard_normal((batch, length, states)).astype(np.float32),
        "state": rng.standard_normal((batch, channels, states)).astype(np.float32),
    }
    return {n: x.astype(dtype_of(dtype)) if n in "xBC" else x for n, x in p.items()}


def cotangents(p: Arrays, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Random gradients of y and of the last state."""
    rng = np.random.default_rng(seed)
    dy = rng.standard_normal(p["x"].shape).astype(p["x"].dtype)
    return dy, rng.standard_normal(p["state"].shape).astype(np.float32)


def operands(p: Arrays) -> list[np.ndarray]:
    """What the forward kernel takes, time last."""
    return [time_last(p[name]) if name in TIMED else p[name] for name in NAMES]


def forward(
    p: Arrays, start: np.ndarray | None = None, programs: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's y, time second, and last state."""
    flags = () if start is None else (start.astype(np.float32),)
    y, state = run(selective_scan, *operands(p), *flags, programs=programs)
    return np.moveaxis(y, -1, 1), state


def expected(p: Arrays, start: np.ndarray | None = None) -> tuple[jax.Array, jax.Array]:
    """What ``bmojo.ops.reference`` gives, in float32."""
    flags = None if start is None else jnp.asarray(start)
    return reference.selective_scan(**{n: wide(x) for n, x in p.items()}, start=flags)


def backward(
    p: Arrays,
    dy: np.ndarray,
    dlast: np.ndarray,
    start: np.ndarray | None = None,
    programs: int | None = None,
) -> Arrays:
    """The kernel's gradients by name, time second."""
    flags = None if start is None else start.astype(np.float32)
    given = operands(p)
    edges = run(selective_scan, *given, flags, True, programs=programs)[2]
    found = run(
        selective_scan_backward,
        *given[:-1],
        edges,
        time_last(dy),
        dlast,
        flags,
        programs=programs,
    )
    dx, ddt, da, dmaps, dstate = found
    parts = {"x": dx, "dt": ddt, "B": dmaps[0], "C": dmaps[1]}
    moved = {name: np.moveaxis(value, -1, 1) for name, value in parts.items()}
    return moved | {"A": da, "state": dstate}


def expected_gradients(
    function: Callable[..., Any],
    p: Arrays,
    dy: np.ndarray,
    dlast: np.ndarray,
    start: np.ndarray | None = None,
) -> dict[str, jax.Array]:
    """Derivatives of a scan by ``jax.vjp``, in float32."""
    flags = None if start is None else jnp.asarray(start)
    return gradients(lambda *o: function(*o, flags), p, NAMES, (dy, dlast))


@dataclasses.dataclass(frozen=True)
class Size:
    """A scan.

    Attributes:
      batch: rows.
      length: L.
      channels: E.
      states: N.
      starts: tokens at which documents start, see :func:`~neuron.checks.check.marks`.
      programs: cores of the launch; None: launched without a degree.
      dtype: of ``x``, ``B`` and ``C``.
    """

    batch: int
    length: int
    channels: int
    states: int
    starts: tuple[int, ...] = ()
    programs: int | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.length}", f"{self.channels} channels of {self.states} states"]
        words += [f"{len(self.starts)} documents start"] if self.starts else []
        words += [f"{self.programs} programs"] if self.programs else []
        return ", ".join([*words, self.dtype])

    def problem(self) -> Arrays:
        """The operands."""
        return problem(self.batch, self.length, self.channels, self.states, 0, self.dtype)

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
    return [
        Compared("y", distance(found[0], wanted[0]), size.limit(FLOAT32)),
        Compared("state", distance(found[1], wanted[1]), FLOAT32),
    ]


def check_backward(size: Size) -> list[Compared]:
    """Compare gradients."""
    p, start = size.problem(), size.start()
    dy, dlast = cotangents(p)
    found = backward(p, dy, dlast, start, size.programs)
    wanted = expected_gradients(operation, p, dy, dlast, start)
    limit = size.limit(GRADIENT)
    return [Compared(n, distance(found[n], wanted[n]), limit) for n in NAMES]


GRID = (
    Size(1, 1, 1, 1),
    Size(2, 7, 3, 2),
    Size(1, 33, 130, 3),
    Size(2, 520, 5, 2),
    Size(1, 66, 4, 90),
    Size(1, 5, 900, 1),
    Size(2, 530, 4, 2, starts=(0, 5, 128, 511, 512, 529)),
    Size(1, 9, 256, 2, programs=2),
    Size(1, 140, 4, 4, dtype="bfloat16"),
)
"""Sizes for both directions; every one carries a state in and out."""

CHECKS = (
    *(Check("selective_scan", str(s), functools.partial(check_forward, s)) for s in GRID),
    *(Check("selective_scan_backward", str(s), functools.partial(check_backward, s)) for s in GRID),
)


def bound(size: Size, gradient: bool) -> Bound:
    """What a scan can't do without.

    VectorE alone can scan. Forward the scan, two products and the sum over states, which GpSimdE
    may do as well. Backward two scans, three products and two sums, and four products on TensorE
    in float32.
    """
    unit = 2.0 * size.batch * size.length * size.states * -(-size.channels // 128)
    tokens = size.batch * size.length
    half = 4 if size.dtype == "float32" else 2
    states = 4 * size.channels * size.states
    steps, maps = tokens * size.channels, tokens * size.states
    read = steps * (4 + half) + 2 * half * maps + states + states * size.batch
    if not gradient:
        moved = read + half * steps + states * size.batch
        return Bound({"vector": unit, "vector+gpsimd": 4 * unit}, moved)
    edges = size.batch * -(-size.length // tile_columns(size.states)) * states
    written = steps * (4 + half) + 8 * maps + states + states * size.batch
    cycles = {"vector": 2 * unit, "vector+gpsimd": 7 * unit, "tensor": 8 * unit}
    return Bound(cycles, read + edges + half * steps + written)


def cost_forward(size: Size) -> tuple[Report, Bound]:
    """What the scan costs."""
    return measure(selective_scan, *operands(size.problem())), bound(size, False)


def cost_backward(size: Size) -> tuple[Report, Bound]:
    """What the gradients cost."""
    p = size.problem()
    dy, dlast = cotangents(p)
    given = operands(p)
    edges = run(selective_scan, *given, None, True)[2]
    report = measure(selective_scan_backward, *given[:-1], edges, time_last(dy), dlast)
    return report, bound(size, True)


LAYER = Size(1, 2048, 768, 16)
"""The scan of a layer of 130M parameters."""

COSTS = tuple(
    Cost(kernel, str(size), functools.partial(cost, size))
    for kernel, cost in (
        ("selective_scan", cost_forward),
        ("selective_scan_backward", cost_backward),
    )
    for size in (LAYER, dataclasses.replace(LAYER, dtype="bfloat16"))
)
