"""The kernel of state-space duality against the slow oracle."""

import numpy as np
import pytest

from neuron.checks.check import distance
from neuron.checks.ssd import SIZES, expected, forward, problem


@pytest.mark.parametrize(("batch", "length", "heads", "width", "states"), SIZES)
def test_agrees_with_the_expected(batch, length, heads, width, states):
    p = problem(batch, length, heads, width, states)
    y, state = forward(p)
    expected_y, expected_state = expected(p)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


@pytest.mark.parametrize("starts", [[0], [5, 127], [128], [127, 128, 129, 139]])
def test_documents_forget_what_was_before(starts):
    p = problem(2, 140, 3, 4, 5)
    start = np.zeros((2, 140), bool)
    start[0, starts] = True
    y, state = forward(p, start)
    expected_y, expected_state = expected(p, start)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_state_continues_a_sequence():
    p = problem(1, 150, 3, 4, 5)
    whole, last = forward(p)
    parts, state = [], p["state"]
    for part in (slice(0, 13), slice(13, 150)):
        cut = {n: p[n][:, part] for n in ("x", "dt", "B", "C")}
        y, state = forward(dict(cut, A=p["A"], state=state))
        parts.append(y)
    assert distance(np.concatenate(parts, axis=1), whole) < 1e-6
    assert distance(state, last) < 1e-6


def test_small_decays_beside_large_ones_keep_their_digits():
    p = problem(1, 128, 2, 4, 4)
    p["dt"] *= 1e-3
    p["dt"][:, 40:80] = 1e3
    p["A"][:] = -1.0
    y, state = forward(p)
    expected_y, expected_state = expected(p)
    assert distance(y[:, 81:], expected_y[:, 81:]) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_two_programs_share_the_heads():
    p = problem(1, 140, 10, 8, 4)
    one, two = forward(p), forward(p, programs=2)
    assert distance(two[0], one[0]) < 1e-6
    assert distance(two[1], one[1]) < 1e-6


def test_bfloat16_inputs_keep_a_float32_state():
    p = problem(1, 300, 4, 16, 8, dtype="bfloat16")
    y, state = forward(p)
    expected_y, expected_state = expected(p)
    assert y.dtype.name == "bfloat16" and state.dtype == np.float32
    assert distance(y, expected_y) < 2**-8
    assert distance(state, expected_state) < 2**-8
