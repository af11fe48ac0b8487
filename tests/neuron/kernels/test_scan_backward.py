"""The backward selective scan kernel against derivatives of the operation and of the oracle."""

import numpy as np
import pytest

from bmojo.ops import reference
from neuron.checks.check import distance
from neuron.checks.scan import (
    NAMES,
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


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [
        (1, 1, 1, 1),
        (2, 7, 3, 2),
        (1, 33, 130, 3),
        pytest.param(1, 128, 5, 1, marks=pytest.mark.slow),
        (2, 520, 5, 2),
        pytest.param(1, 513, 3, 1, marks=pytest.mark.slow),
        pytest.param(1, 300, 140, 2, marks=pytest.mark.slow),
        (1, 66, 4, 65),
        pytest.param(3, 129, 2, 4, marks=pytest.mark.slow),
        pytest.param(1, 5, 900, 1, marks=pytest.mark.slow),
        (1, 20, 2, 128),
    ],
)
def test_agrees_with_derivatives_of_the_operation(batch, length, channels, states):
    p = problem(batch, length, channels, states)
    dy, dlast = cotangents(p)
    check(backward(p, dy, dlast), expected_gradients(operation, p, dy, dlast))


@pytest.mark.parametrize(("length", "starts"), [(6, [0, 3]), (530, [5, 128, 511, 512, 529])])
def test_documents_end_the_flow(length, starts):
    p = problem(2, length, 4, 2)
    start = np.zeros((2, length), bool)
    start[0, starts] = True
    start[1, starts[-1]] = True
    dy, dlast = cotangents(p)
    found = backward(p, dy, dlast, start)
    check(found, expected_gradients(operation, p, dy, dlast, start))
    if 0 in starts:
        assert not found["state"][0].any() and found["state"][1].any()


def test_agrees_with_derivatives_of_the_oracle():
    p = problem(1, 21, 3, 4)
    start = np.zeros((1, 21), bool)
    start[0, 11] = True
    dy, dlast = cotangents(p)
    check(
        backward(p, dy, dlast, start),
        expected_gradients(reference.selective_scan, p, dy, dlast, start),
    )


def test_gradients_of_parts_make_up_the_whole():
    p = problem(1, 40, 3, 2)
    dy, dlast = cotangents(p)
    whole = backward(p, dy, dlast)
    first = {n: p[n][:, :13] for n in ("x", "dt", "B", "C")} | {n: p[n] for n in ("A", "state")}
    middle = forward(first)[1]
    second = {n: p[n][:, 13:] for n in ("x", "dt", "B", "C")} | dict(A=p["A"], state=middle)
    late = backward(second, dy[:, 13:], dlast)
    early = backward(first, dy[:, :13], late["state"])
    for name in ("x", "dt", "B", "C"):
        joined = np.concatenate([early[name], late[name]], axis=1)
        assert distance(joined, whole[name]) < 1e-6
    assert distance(early["A"] + late["A"], whole["A"]) < 1e-6
    assert distance(early["state"], whole["state"]) < 1e-6


def test_decays_that_vanish_leave_no_trace_of_infinity():
    p = problem(1, 64, 4, 3)
    p["dt"] *= 1e4
    dy, dlast = cotangents(p)
    check(backward(p, dy, dlast), expected_gradients(operation, p, dy, dlast), 1e-4)


def test_tokens_without_a_step_pass_the_gradient_on():
    p = problem(1, 20, 4, 3)
    p["dt"][:, 15:] = 0
    dy, dlast = cotangents(p)
    dy[:, 15:] = 0
    check(backward(p, dy, dlast), expected_gradients(operation, p, dy, dlast))


@pytest.mark.parametrize("length", [9, 515])
def test_two_programs_share_the_channels(length):
    p = problem(2, length, 256, 1)
    dy, dlast = cotangents(p)
    one, two = backward(p, dy, dlast), backward(p, dy, dlast, programs=2)
    for name in ("x", "dt", "A", "state"):
        np.testing.assert_array_equal(one[name], two[name])
    for name in ("B", "C"):
        assert distance(two[name], one[name]) < 1e-6


def test_bfloat16_operands_and_float32_sums():
    p = problem(1, 140, 4, 4, dtype="bfloat16")
    dy, dlast = cotangents(p)
    found = backward(p, dy, dlast)
    wanted = expected_gradients(operation, p, dy, dlast)
    assert found["x"].dtype.name == "bfloat16"
    assert distance(found["x"], wanted["x"]) < 2**-8
    for name in ("dt", "A", "B", "C", "state"):
        assert distance(found[name], wanted[name]) < 1e-5, name
