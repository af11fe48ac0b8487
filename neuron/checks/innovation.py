"""Innovation against the library's op."""

import functools

import jax.numpy as jnp
import numpy as np

from bmojo.ops import innovation as ops
from neuron.checks.check import FLOAT32, Check, Compared, Cost, distance, measure, run, time_last
from neuron.emulator.cost import Report
from neuron.kernels.innovation import innovation

GRID = ((1, 1, 1, 1), (2, 9, 3, 4), (1, 530, 130, 4), (2, 40, 256, 3))
"""Batch, length, channels and span."""

LAYER = (1, 2048, 768, 4)


def _weights(span: int) -> tuple[float, ...]:
    return tuple(float(c) for c in ops.predictor(span))


def _operands(size: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    batch, length, channels, span = size
    rng = np.random.default_rng(0)
    y = rng.standard_normal((batch, length, channels), np.float32)
    return y, rng.standard_normal((batch, span, channels), np.float32)


def check(size: tuple[int, int, int, int]) -> list[Compared]:
    """Compare scores."""
    y, tail = _operands(size)
    found = run(innovation, time_last(y), time_last(tail), _weights(size[3]))
    residual = ops.residual(jnp.asarray(y), jnp.asarray(tail), ops.predictor(size[3]), None)
    return [Compared("score", distance(found, ops.innovation(residual)[0]), FLOAT32)]


def cost(size: tuple[int, int, int, int]) -> tuple[Report, None]:
    """What a layer costs."""
    y, tail = _operands(size)
    return measure(innovation, time_last(y), time_last(tail), _weights(size[3])), None


def _words(size: tuple[int, int, int, int]) -> str:
    return f"{size[0]}x{size[1]}, {size[2]} channels, span {size[3]}"


CHECKS = tuple(Check("innovation", _words(s), functools.partial(check, s)) for s in GRID)
COSTS = (Cost("innovation", _words(LAYER), functools.partial(cost, LAYER)),)
