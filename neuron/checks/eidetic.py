"""Selection against the library's op, ties included."""

import functools

import jax
import numpy as np

from bmojo.ops import selection as ops
from neuron.checks.check import Bound, Check, Compared, Cost, measure, run
from neuron.emulator.cost import Report
from neuron.kernels.eidetic import running_sets

GRID = ((3, 16, 8, 8), (3, 33, 8, 12), (2, 40, 16, 24), (4, 64, 8, 17))
"""Batch, length, chunk and slots."""

LAYER = (1, 2048, 512, 32)


def _operands(size: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch, length, _, slots = size
    rng = np.random.default_rng(0)
    score = rng.integers(0, 9, (batch, length)).astype(np.float32)
    carried = np.sort(rng.integers(0, 9, (batch, slots)).astype(np.float32), axis=1)[:, ::-1]
    return score, carried.copy(), rng.random((batch, length)) < 0.1


def check(size: tuple[int, int, int, int]) -> list[Compared]:
    """Compare scores and sources; not one may differ."""
    score, carried, start = _operands(size)
    values, sources = run(running_sets, score, carried, size[2], start.astype(np.float32))
    op = jax.jit(ops.running_sets, static_argnames="chunk")
    wanted, _ = op(score, carried, size[2], start=start)
    held = np.asarray(wanted.score) != ops.EMPTY
    wrong = (values != np.asarray(wanted.score)).mean()
    other = (sources != np.asarray(wanted.source))[held].mean()
    return [Compared("score", float(wrong), 0.0), Compared("source", float(other), 0.0)]


def bound(size: tuple[int, int, int, int]) -> Bound:
    """What selection can't do without.

    For every eight slots a search for the largest, one for their places, and, but for the last
    eight, one that takes them out; each over a set and a chunk. 128 rows share them.
    """
    batch, length, chunk, slots = size
    chunks, rounds = -(-length // chunk), -(-slots // 8)
    passes = -(-batch // 128) * chunks * (3 * rounds - 1)
    moved = 4 * batch * (length + slots + 2 * chunks * slots)
    return Bound({"vector": float(passes * (chunk + slots))}, moved)


def cost(size: tuple[int, int, int, int]) -> tuple[Report, Bound]:
    """What a layer costs."""
    score, carried, _ = _operands(size)
    return measure(running_sets, score, carried, size[2]), bound(size)


def _words(size: tuple[int, int, int, int]) -> str:
    return f"{size[0]}x{size[1]}, chunks of {size[2]}, {size[3]} slots"


CHECKS = tuple(Check("running_sets", _words(s), functools.partial(check, s)) for s in GRID)
COSTS = (Cost("running_sets", _words(LAYER), functools.partial(cost, LAYER)),)
