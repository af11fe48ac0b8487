"""The innovation kernel against the slow oracle and the op of the library."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import reference
from neuron.checks import innovation as checks
from neuron.checks.check import distance, run, time_last
from neuron.checks.innovation import Size
from neuron.kernels.innovation import innovation


@pytest.mark.parametrize("size", checks.GRID, ids=str)
def test_agrees_with_the_op(size):
    results = checks.check(size)
    assert all(result.good for result in results), results


@pytest.mark.parametrize("edges", [(), (2, 5, 11)])
def test_agrees_with_the_oracle(edges):
    p = checks.problem(Size(2, 14, 3, 4, starts=(0, *edges)))
    score = run(innovation, *checks.arguments(p))
    document = np.searchsorted(edges, np.arange(14), "right").tolist()
    for row in range(2):
        wanted = reference.innovation(jnp.asarray(p.y[row]), 4, document)
        assert distance(score[row], wanted) < 1e-5


def test_unequal_weights():
    p = checks.problem(Size(1, 20, 3, 3))
    weights = (0.5, 0.3, 0.2)
    score = run(innovation, time_last(p.y), time_last(p.tail), weights)
    past = np.concatenate([p.tail, p.y], axis=1)
    error = p.y - sum(c * past[:, 2 - i : 22 - i] for i, c in enumerate(weights))
    assert distance(score, (error**2).mean(axis=-1)) < 1e-5


def test_silent_channels_share_nothing():
    p = checks.problem(Size(1, 9, 4, 2, normalized=True))
    for x in (p.y, p.tail, p.power):
        x[..., 1] = 0
    score, power = run(innovation, *checks.arguments(p))
    assert distance(score, checks.expected(p)[0]) < 1e-5 and power[0, 1] == 0


def test_power_continues_a_sequence():
    p = checks.problem(Size(1, 20, 3, 2, starts=(6,), normalized=True))
    whole, last = run(innovation, *checks.arguments(p))
    first = dataclasses.replace(p, y=p.y[:, :13], segment_pos=p.segment_pos[:, :13])
    early, power = run(innovation, *checks.arguments(first))
    rest = dataclasses.replace(
        p, y=p.y[:, 13:], tail=p.y[:, 11:13], segment_pos=p.segment_pos[:, 13:], power=power
    )
    late, after = run(innovation, *checks.arguments(rest))
    np.testing.assert_array_equal(np.concatenate([early, late], axis=1), whole)
    np.testing.assert_array_equal(after, last)


def test_power_passes_over_padding():
    p = checks.problem(Size(2, 12, 3, 2, starts=(4,), normalized=True))
    short = dataclasses.replace(p, y=p.y[:, :7], segment_pos=p.segment_pos[:, :7])
    padded = dataclasses.replace(p, y=p.y.copy(), segment_pos=p.segment_pos.copy())
    padded.y[:, 7:], padded.segment_pos[:, 7:] = 0, -1
    score, power = run(innovation, *checks.arguments(padded))
    wanted, last = run(innovation, *checks.arguments(short))
    np.testing.assert_array_equal(score[:, :7], wanted)
    np.testing.assert_array_equal(power, last)


@pytest.mark.parametrize("normalized", [False, True])
def test_two_programs_share_the_rows(normalized):
    p = checks.problem(Size(4, 9, 3, 2, normalized=normalized))
    one = run(innovation, *checks.arguments(p))
    two = run(innovation, *checks.arguments(p), programs=2)
    np.testing.assert_array_equal(two[0], one[0])
    np.testing.assert_array_equal(two[1], one[1])
