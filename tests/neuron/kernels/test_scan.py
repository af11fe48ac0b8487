"""The selective scan kernel against the slow oracle."""

import numpy as np
import pytest

from neuron.checks.check import distance
from neuron.checks.scan import expected, forward, problem


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [(1, 1, 1, 1), (2, 7, 3, 2), (1, 33, 130, 3), (2, 520, 5, 2), (1, 66, 4, 90)],
)
def test_agrees_with_the_expected(batch, length, channels, states):
    p = problem(batch, length, channels, states)
    y, state = forward(p)
    expected_y, expected_state = expected(p)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_documents_forget_what_was_before():
    p = problem(2, 530, 4, 2)
    start = np.zeros((2, 530), bool)
    start[0, [0, 5, 512]] = True
    start[1, [3, 511, 529]] = True
    y, state = forward(p, start=start)
    expected_y, expected_state = expected(p, start)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_state_continues_a_sequence():
    p = problem(1, 20, 3, 2)
    whole, last = forward(p)
    parts, state = [], p["state"]
    for part in (slice(0, 13), slice(13, 20)):
        cut = {n: p[n][:, part] for n in ("x", "dt", "B", "C")}
        y, state = forward(dict(cut, A=p["A"], state=state))
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(state, last)


def test_two_programs_share_the_channels():
    p = problem(1, 9, 256, 2)
    one, two = forward(p), forward(p, programs=2)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_bfloat16_inputs_keep_a_float32_state():
    p = problem(1, 64, 4, 4, dtype="bfloat16")
    y, state = forward(p)
    expected_y, expected_state = expected(p)
    assert y.dtype.name == "bfloat16" and state.dtype == np.float32
    assert distance(y, expected_y) < 2**-8
    assert distance(state, expected_state) < 1e-5
