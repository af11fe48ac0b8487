"""The selection kernel against sequential insertion and the op of the library."""

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import selection as ops
from neuron.checks.check import run
from neuron.kernels.eidetic import running_sets


def oracle(score, carried, chunk, start):
    """Insertion token by token: a set is a list of (score, source), best and earliest first."""
    size, sets = carried.shape[1], []
    for row in range(len(score)):
        kept = [(v, i) for i, v in enumerate(carried[row]) if v > ops.EMPTY]
        edges = []
        for t, value in enumerate(score[row]):
            if start is not None and start[row, t]:
                kept = []
            if value > ops.EMPTY:
                kept = sorted([*kept, (value, size + t)], key=lambda s: (-s[0], s[1]))[:size]
            if (t + 1) % chunk == 0 or t + 1 == score.shape[1]:
                edges.append(kept)
        sets.append(edges)
    return sets


def check(score, carried, chunk, start=None, programs=None):
    """Scores agree, and so do the sources of slots that are not vacant."""
    flags = None if start is None else start.astype(np.float32)
    values, sources = run(running_sets, score, carried, chunk, flags, programs=programs)
    for row, edges in enumerate(oracle(score, carried, chunk, start)):
        for c, kept in enumerate(edges):
            found = list(zip(values[row, c], sources[row, c], strict=True))
            assert found[: len(kept)] == kept, (row, c)
            assert all(value == ops.EMPTY for value, _ in found[len(kept) :])
    return values, sources


def scores(batch, length, levels, seed=0):
    """Innovation with few distinct values, so that ties abound."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, levels, (batch, length)).astype(np.float32)


def vacant(batch, size):
    return np.full((batch, size), ops.EMPTY, np.float32)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
@pytest.mark.parametrize(
    ("length", "chunk", "size"),
    [(16, 8, 8), (20, 8, 3), (33, 8, 12), (5, 1, 4), (40, 16, 24), (9, 16, 1), (64, 8, 17)],
)
def test_agrees_with_insertion(length, chunk, size, levels):
    check(scores(3, length, levels), vacant(3, size), chunk)


def test_agrees_with_the_op():
    rng = np.random.default_rng(0)
    score, start = scores(3, 20, 4), rng.random((3, 20)) < 0.1
    carried = np.sort(scores(3, 6, 5), axis=1)[:, ::-1].copy()
    values, sources = check(score, carried, 8, start)
    expected, final = ops.running_sets(
        jnp.asarray(score), jnp.asarray(carried), 8, start=jnp.asarray(start)
    )
    np.testing.assert_array_equal(values, expected.score)
    full = values > ops.EMPTY
    np.testing.assert_array_equal(sources[full], np.asarray(expected.source)[full])
    np.testing.assert_array_equal(values[:, -1], final.score)


def test_set_from_before_the_call():
    carried = np.array([[9.0, 3.0, 3.0, ops.EMPTY], [1.0] + [ops.EMPTY] * 3], np.float32)
    check(scores(2, 20, 4), carried, 8)


@pytest.mark.parametrize("seed", range(4))
def test_documents_empty_the_memory(seed):
    rng = np.random.default_rng(seed)
    start = rng.random((4, 44)) < 0.1
    carried = np.sort(scores(4, 6, 5, seed), axis=1)[:, ::-1].copy()
    check(scores(4, 44, 3, seed), carried, 8, start)


def test_padding_is_never_kept():
    score = scores(2, 16, 5)
    score[0, 10:] = ops.EMPTY
    score[1, 3:] = ops.EMPTY
    found_score, _ = check(score, vacant(2, 8), 8)
    assert (found_score[1, -1, 3:] == ops.EMPTY).all()


def test_more_rows_than_partitions():
    check(scores(130, 12, 4), vacant(130, 4), 4)


def test_two_programs_share_the_rows():
    score, carried = scores(4, 24, 5), vacant(4, 6)
    check(score, carried, 8, programs=2)
