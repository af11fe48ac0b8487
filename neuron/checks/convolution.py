"""The short convolution with bias and silu, and its gradients, against the library's op."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.convolution import causal_convolution
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
    measure,
    run,
    time_last,
    wide,
)
from neuron.emulator.cost import Report
from neuron.kernels.convolution import short_convolution, short_convolution_backward

NAMES = ("x", "kernel", "tail", "bias")
Arrays = dict[str, np.ndarray]


def problem(
    batch: int,
    length: int,
    channels: int,
    taps: int,
    held: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> Arrays:
    """Random operands by name, time second; ``held`` inputs are before the call."""
    rng = np.random.default_rng(seed)
    held = max(taps - 1, 1) if held is None else held
    shapes = {
        "x": (batch, length, channels),
        "kernel": (taps, channels),
        "tail": (batch, held, channels),
        "bias": (channels,),
    }
    return {
        name: rng.standard_normal(shape).astype(dtype_of(dtype)) for name, shape in shapes.items()
    }


def segment_positions(batch: int, length: int, starts: Iterable[int]) -> np.ndarray:
    """Tokens of the same document before each token; the first has 2 from before the call."""
    segment_pos = np.arange(length)[None].repeat(batch, 0) + 2
    for start in starts:
        segment_pos[:, start:] = np.arange(length - start)
    return segment_pos


def cotangent(p: Arrays) -> np.ndarray:
    """A random gradient of the output."""
    return np.random.default_rng(1).standard_normal(p["x"].shape).astype(p["x"].dtype)


def operands(p: Arrays) -> tuple[np.ndarray, ...]:
    """What the kernels take, time last."""
    return time_last(p["x"]), time_last(p["tail"]), p["kernel"].T.copy(), p["bias"][:, None].copy()


def forward(
    p: Arrays, segment_pos: np.ndarray | None = None, programs: int | None = None
) -> np.ndarray:
    """The kernel's output, time second."""
    given = None if segment_pos is None else segment_pos.astype(np.float32)
    return np.moveaxis(run(short_convolution, *operands(p), given, programs=programs), -1, 1)


def backward(
    p: Arrays, dout: np.ndarray, segment_pos: np.ndarray | None = None, programs: int | None = None
) -> Arrays:
    """The kernel's gradients by name, time second."""
    given = None if segment_pos is None else segment_pos.astype(np.float32)
    found = run(short_convolution_backward, *operands(p), time_last(dout), given, programs=programs)
    dx, dtail, dkernel, dbias = found
    return {
        "x": np.moveaxis(dx, -1, 1),
        "tail": np.moveaxis(dtail, -1, 1),
        "kernel": dkernel.T,
        "bias": dbias[:, 0],
    }


def operation(
    x: Any, kernel: Any, tail: Any, bias: Any, segment_pos: jax.Array | None = None
) -> jax.Array:
    """The library's convolution with bias and silu."""
    return jax.nn.silu(causal_convolution(x, kernel, tail, segment_pos) + bias)


def expected(
    p: Arrays, dout: np.ndarray, segment_pos: np.ndarray | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Output and derivatives of the operation, in float32."""
    given = None if segment_pos is None else jnp.asarray(segment_pos)

    def dated(x: Any, kernel: Any, tail: Any, bias: Any) -> jax.Array:
        return operation(x, kernel, tail, bias, given)

    return dated(*(wide(p[name]) for name in NAMES)), gradients(dated, p, NAMES, dout)


@dataclasses.dataclass(frozen=True)
class Size:
    """A convolution.

    Attributes:
      batch: rows.
      length: L.
      channels: D.
      taps: K.
      starts: tokens at which documents start.
      programs: cores of the launch; None: launched without a degree.
      dtype: of all operands.
    """

    batch: int
    length: int
    channels: int
    taps: int
    starts: tuple[int, ...] = ()
    programs: int | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [f"{self.batch}x{self.length}", f"{self.channels} channels", f"{self.taps} taps"]
        words += [f"{len(self.starts)} documents start"] if self.starts else []
        words += [f"{self.programs} programs"] if self.programs else []
        return ", ".join([*words, self.dtype])

    def problem(self) -> Arrays:
        """The operands."""
        shape = (self.batch, self.length, self.channels, self.taps)
        return problem(*shape, dtype=self.dtype)

    def segment_pos(self) -> np.ndarray | None:
        """Position of each token in its document; None where no document starts."""
        return segment_positions(self.batch, self.length, self.starts) if self.starts else None

    def limit(self, exact: float) -> float:
        """The error that is allowed where float32 allows that one."""
        return exact if self.dtype == "float32" else BFLOAT16


def check_forward(size: Size) -> list[Compared]:
    """Compare outputs."""
    p, segment_pos = size.problem(), size.segment_pos()
    wanted, _ = expected(p, cotangent(p), segment_pos)
    found = forward(p, segment_pos, size.programs)
    return [Compared("out", distance(found, wanted), size.limit(FLOAT32))]


def check_backward(size: Size) -> list[Compared]:
    """Compare gradients."""
    p, segment_pos = size.problem(), size.segment_pos()
    dout = cotangent(p)
    _, wanted = expected(p, dout, segment_pos)
    found = backward(p, dout, segment_pos, size.programs)
    limit = size.limit(GRADIENT)
    return [Compared(n, distance(found[n], wanted[n]), limit) for n in NAMES]


SIZES = [
    (1, 1, 1, 4),
    (2, 2, 3, 4),
    (2, 7, 3, 2),
    (1, 512, 5, 4),
    (1, 513, 130, 4),
    (2, 700, 4, 3),
    (1, 20, 300, 1),
    (1, 1030, 2, 8),
    (3, 130, 128, 4),
    (1, 514, 1, 5),
]
"""Batch, length, channels and taps."""

GRID = (
    *(Size(*size) for size in SIZES),
    Size(2, 520, 3, 4, starts=(3, 509, 511)),
    Size(2, 140, 256, 4, programs=2),
    Size(2, 530, 5, 4, dtype="bfloat16"),
)
"""Sizes for both directions; every one has a tail."""

CHECKS = (
    *(Check("short_convolution", str(s), functools.partial(check_forward, s)) for s in GRID),
    *(
        Check("short_convolution_backward", str(s), functools.partial(check_backward, s))
        for s in GRID
    ),
)


def bound(size: Size, gradient: bool) -> Bound:
    """What a convolution can't do without.

    Forward HBM alone. Backward a product of two tiles for each tap and for the slope, and a sum
    over time for each of them; in bfloat16 three passes of ScalarE besides, in float32 two
    products more for each tap, which TensorE does as fast as ScalarE would: it counts in
    ScalarE's place.
    """
    half = 4 if size.dtype == "float32" else 2
    unit = size.batch * size.length * size.channels
    inputs = half * (unit + size.channels * (size.batch * max(size.taps - 1, 1) + size.taps + 1))
    if not gradient:
        return Bound({}, inputs + half * unit)
    passes = 2 * (3 * size.taps + 1) if size.dtype == "float32" else 3 * (size.taps + 1) + 3
    written = half * size.batch * size.channels * max(size.taps - 1, 1)
    written += half * unit + 4 * size.channels * (size.taps + 1)
    cycles = {"vector+gpsimd+scalar": passes * unit / 128}
    return Bound(cycles, inputs + half * unit + written)


def cost_forward(size: Size) -> tuple[Report, Bound]:
    """What the forward kernel costs."""
    return measure(short_convolution, *operands(size.problem())), bound(size, False)


def cost_backward(size: Size) -> tuple[Report, Bound]:
    """What the gradients cost."""
    p = size.problem()
    given = (*operands(p), time_last(cotangent(p)))
    return measure(short_convolution_backward, *given), bound(size, True)


LAYER = Size(1, 2048, 768, 4)
"""The convolution of a layer of 130M parameters."""

COSTS = tuple(
    Cost(kernel, str(size), functools.partial(cost, size))
    for kernel, cost in (
        ("short_convolution", cost_forward),
        ("short_convolution_backward", cost_backward),
    )
    for size in (LAYER, dataclasses.replace(LAYER, dtype="bfloat16"))
)
