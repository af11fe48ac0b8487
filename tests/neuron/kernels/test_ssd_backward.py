"""The backward kernel of state-space duality against derivatives of operation and oracle."""

import numpy as np
import pytest

from bmojo.ops import reference
from neuron.checks.check import distance
from neuron.checks.ssd import (
    NAMES,
    SIZES,
    backward,
    cotangents,
    expected_gradients,
    forward,
    operation,
    problem,
)


def check(found, wanted, limit=1e-5):
    for name in NAMES:
        assert distance(found[name], wanted[name]) < limit, name


# Their limits are crossed by other sizes, too.
AGAIN = {(1, 128, 2, 64, 64), (2, 300, 4, 16, 8), (1, 130, 1, 200, 4), (3, 64, 6, 32, 16)}


@pytest.mark.parametrize(
    ("batch", "length", "heads", "width", "states"),
    [pytest.param(*s, marks=pytest.mark.slow) if s in AGAIN else s for s in SIZES],
)
def test_agrees_with_derivatives_of_the_operation(batch, length, heads, width, states):
    p = problem(batch, length, heads, width, states)
    dy, dlast = cotangents(p)
    check(backward(p, dy, dlast), expected_gradients(operation, p, dy, dlast))


@pytest.mark.parametrize(
    "starts",
    [
        [0],
        pytest.param([5, 127], marks=pytest.mark.slow),
        pytest.param([128], marks=pytest.mark.slow),
        [127, 128, 129, 139],
    ],
)
def test_documents_end_the_flow(starts):
    p = problem(2, 140, 3, 4, 5)
    start = np.zeros((2, 140), bool)
    start[0, starts] = True
    dy, dlast = cotangents(p)
    found = backward(p, dy, dlast, start)
    check(found, expected_gradients(operation, p, dy, dlast, start))
    assert found["state"][0].any() == (0 not in starts) and found["state"][1].any()


def test_agrees_with_derivatives_of_the_oracle():
    p = problem(1, 21, 3, 4, 5)
    start = np.zeros((1, 21), bool)
    start[0, 11] = True
    dy, dlast = cotangents(p)
    check(backward(p, dy, dlast, start), expected_gradients(reference.ssd, p, dy, dlast, start))


def test_gradients_of_parts_make_up_the_whole():
    p = problem(1, 150, 3, 4, 5)
    dy, dlast = cotangents(p)
    whole = backward(p, dy, dlast)
    timed = ("x", "dt", "B", "C")
    first = {n: p[n][:, :13] for n in timed} | dict(A=p["A"], state=p["state"])
    middle = forward(first)[1]
    second = {n: p[n][:, 13:] for n in timed} | dict(A=p["A"], state=middle)
    late = backward(second, dy[:, 13:], dlast)
    early = backward(first, dy[:, :13], late["state"])
    for name in timed:
        joined = np.concatenate([early[name], late[name]], axis=1)
        assert distance(joined, whole[name]) < 2e-6, name
    assert distance(early["A"] + late["A"], whole["A"]) < 2e-6
    assert distance(early["state"], whole["state"]) < 2e-6


def test_small_gradients_of_decays_keep_their_digits():
    """Where nearly nothing is left of a token at the next one, little flows over that."""
    p = problem(1, 128, 2, 4, 4)
    p["dt"] = np.full_like(p["dt"], 10.0)
    p["A"][:] = -1.0
    dy, dlast = cotangents(p)
    check(backward(p, dy, dlast), expected_gradients(operation, p, dy, dlast))


def test_two_programs_share_the_heads():
    p = problem(2, 140, 10, 8, 4)
    dy, dlast = cotangents(p)
    check(backward(p, dy, dlast, programs=2), backward(p, dy, dlast), 1e-6)


def test_bfloat16_operands():
    p = problem(1, 300, 4, 64, 8, dtype="bfloat16")
    dy, dlast = cotangents(p)
    found = backward(p, dy, dlast)
    assert found["x"].dtype.name == "bfloat16"
    check(found, expected_gradients(operation, p, dy, dlast), 2**-7)  # two roundings
