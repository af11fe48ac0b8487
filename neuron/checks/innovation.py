"""Innovation, plain and normalized, against the library's op."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from bmojo.ops import innovation as ops
from neuron.checks.check import (
    FLOAT32,
    Bound,
    Check,
    Compared,
    Cost,
    distance,
    measure,
    run,
    time_last,
)
from neuron.emulator.cost import Report
from neuron.kernels.innovation import innovation


@dataclasses.dataclass(frozen=True)
class Size:
    """A problem of innovation.

    Attributes:
      batch: rows.
      length: L.
      channels: D.
      span: outputs that the predictor averages.
      starts: tokens at which documents start.
      normalized: each channel's squares are divided by their running mean.
      before: outputs before the call; None: ``span``.
    """

    batch: int
    length: int
    channels: int
    span: int
    starts: tuple[int, ...] = ()
    normalized: bool = False
    before: int | None = None

    def __str__(self) -> str:
        words = [
            f"{self.batch}x{self.length}",
            f"{self.channels} channels",
            f"span {self.span}",
        ]
        words += [f"{len(self.starts)} documents start"] if self.starts else []
        words += ["normalized"] if self.normalized else []
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arrays of a problem, as the library's op takes them.

    Attributes:
      size: of the problem.
      y: (batch, L, D).
      tail: (batch, outputs before the call, D).
      segment_pos: (batch, L); None where no document ends.
      power: (batch, D); None if not normalized.
    """

    size: Size
    y: np.ndarray
    tail: np.ndarray
    segment_pos: np.ndarray | None
    power: np.ndarray | None


def weights(span: int) -> tuple[float, ...]:
    """The library's predictor as a tuple."""
    return tuple(float(c) for c in ops.predictor(span))


def problem(size: Size, seed: int = 0) -> Problem:
    """Random outputs, louder in later channels; the first document began 9 tokens earlier."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(1, 5, size.channels, dtype=np.float32)
    held = size.before or size.span
    y = rng.standard_normal((size.batch, size.length, size.channels), np.float32) * scale
    tail = rng.standard_normal((size.batch, held, size.channels), np.float32) * scale
    segment_pos, power = None, None
    if size.starts or size.normalized:
        segment_pos = np.broadcast_to(np.arange(size.length) + 9, (size.batch, size.length)).copy()
        for start in size.starts:
            segment_pos[:, start:] = np.arange(size.length - start)
        segment_pos = segment_pos.astype(np.int32)
    if size.normalized:
        power = rng.random((size.batch, size.channels), np.float32) * 9 * scale**2
    return Problem(size, y, tail, segment_pos, power)


def arguments(p: Problem) -> list[Any]:
    """What the kernel takes."""
    given = [time_last(p.y), time_last(p.tail), weights(p.size.span)]
    given += [] if p.segment_pos is None else [p.segment_pos]
    return given + ([] if p.power is None else [p.power])


def expected(p: Problem) -> tuple[jax.Array, jax.Array | None]:
    """The score by ``bmojo.ops.innovation``, and the power after the call."""

    @jax.jit
    def compute(
        y: Any, tail: Any, segment_pos: Any, power: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        residual = ops.residual(y, tail, ops.predictor(p.size.span), segment_pos)
        return ops.innovation(residual, power, segment_pos)

    return compute(p.y, p.tail, p.segment_pos, p.power)


def check(size: Size) -> list[Compared]:
    """Compare scores, and power if normalized."""
    p = problem(size)
    found = run(innovation, *arguments(p))
    wanted = expected(p)
    if not size.normalized:
        return [Compared("score", distance(found, wanted[0]), FLOAT32)]
    return [
        Compared("score", distance(found[0], wanted[0]), FLOAT32),
        Compared("power", distance(found[1], wanted[1]), FLOAT32),
    ]


GRID = (
    Size(1, 1, 1, 1),
    Size(2, 9, 3, 4),
    Size(1, 530, 130, 4),
    Size(2, 40, 256, 3),
    Size(2, 12, 3, 4, before=6),
    Size(1, 30, 5, 7),
    Size(1, 530, 130, 4, starts=(2, 511, 513)),
    Size(2, 9, 3, 4, normalized=True),
    Size(1, 1, 3, 2, normalized=True),
    Size(2, 14, 4, 3, starts=(0, 5, 6), normalized=True),
    Size(1, 530, 130, 4, starts=(511, 513), normalized=True),
)
"""Sizes: one token, tiles of time and channels that join, long tails, documents."""


def bound(size: Size) -> Bound:
    """What innovation can't do without.

    On VectorE or GpSimdE: an average of k takes log k sums and one subtraction; with documents
    each output is masked, too. Normalization takes a scan and a reciprocal on VectorE, and two
    products anywhere.
    """
    unit = float(size.batch * size.length * -(-size.channels // 128))
    dated = bool(size.starts) or size.normalized
    passes = 2 * (2 * size.span if dated else size.span.bit_length())
    cycles = {"vector+gpsimd": passes * unit}
    if size.normalized:
        cycles = {"vector+gpsimd": (passes + 2 + 8 + 4) * unit, "vector": 10 * unit}
    held = size.length + (size.before or size.span) + 2 * size.normalized
    scores = size.batch * size.length
    return Bound(cycles, 4 * (size.batch * held * size.channels + scores * (1 + dated)))


def cost(size: Size) -> tuple[Report, Bound]:
    """What a layer costs."""
    return measure(innovation, *arguments(problem(size))), bound(size)


LAYER = Size(1, 2048, 768, 4)
"""Innovation in a layer of 130M parameters."""

CHECKS = tuple(Check("innovation", str(s), functools.partial(check, s)) for s in GRID)
COSTS = tuple(
    Cost("innovation", str(s), functools.partial(cost, s))
    for s in (
        LAYER,
        dataclasses.replace(LAYER, starts=(700,)),
        dataclasses.replace(LAYER, normalized=True),
    )
)
