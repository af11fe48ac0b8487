"""The selective scan against the slow oracle."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from bmojo.ops import reference
from neuron.checks.check import FLOAT32, Check, Compared, Cost, distance, measure, run, time_last
from neuron.emulator.cost import Report
from neuron.kernels.scan import selective_scan

GRID = ((1, 1, 1, 1), (2, 7, 3, 2), (1, 33, 130, 3), (1, 66, 4, 90))
"""Batch, length, channels and states."""

LAYER = (1, 2048, 768, 16)


def _operands(size: tuple[int, int, int, int]) -> dict[str, Any]:
    batch, length, channels, states = size
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((batch, length, channels), np.float32),
        "dt": np.exp(rng.normal(-2, 1, (batch, length, channels))).astype(np.float32),
        "A": -np.exp(rng.normal(0, 1, (channels, states))).astype(np.float32),
        "B": rng.standard_normal((batch, length, states), np.float32),
        "C": rng.standard_normal((batch, length, states), np.float32),
        "state": rng.standard_normal((batch, channels, states), np.float32),
    }


def _moved(p: dict[str, Any]) -> list[np.ndarray]:
    return [p[n] if n in ("A", "state") else time_last(p[n]) for n in p]


def check(size: tuple[int, int, int, int]) -> list[Compared]:
    """Compare outputs and the last state."""
    p = _operands(size)
    y, state = run(selective_scan, *_moved(p))
    wanted = reference.selective_scan(**{n: jnp.asarray(x) for n, x in p.items()})
    return [
        Compared("y", distance(np.moveaxis(y, -1, 1), wanted[0]), FLOAT32),
        Compared("state", distance(state, wanted[1]), FLOAT32),
    ]


def cost(size: tuple[int, int, int, int]) -> tuple[Report, None]:
    """What a layer costs."""
    return measure(selective_scan, *_moved(_operands(size))), None


def _words(size: tuple[int, int, int, int]) -> str:
    return f"{size[0]}x{size[1]}, {size[2]} channels of {size[3]} states"


CHECKS = tuple(Check("selective_scan", _words(s), functools.partial(check, s)) for s in GRID)
COSTS = (Cost("selective_scan", _words(LAYER), functools.partial(cost, LAYER)),)
