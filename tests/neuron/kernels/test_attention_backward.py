"""Gradients of attention over window and slots against jax.grad."""

import dataclasses

import numpy as np
import pytest

from neuron.checks import attention as checks
from neuron.checks.attention import Size

SMALL = Size(2, 21, 4, 2, 8, 8, slots=5, before=7, documents=2)


def good(results):
    assert all(result.good for result in results), results


@pytest.mark.parametrize("size", [checks.GRID[0], checks.GRID[5], SMALL], ids=str)
def test_agrees_with_jax(size):
    good(checks.check_backward(size))


def test_bfloat16():
    good(checks.check_backward(dataclasses.replace(SMALL, dtype="bfloat16")))


@pytest.mark.parametrize("batch", [1, 2])
def test_programs_share_rows_or_heads(batch):
    p = checks.problem(dataclasses.replace(SMALL, batch=batch))
    grad = checks.gradient_of_output(p)
    one = checks.backward(p, grad)
    two = checks.backward(checks.problem(dataclasses.replace(p.size, programs=2)), grad)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_empty_slots_get_no_gradient():
    p = checks.problem(SMALL)
    p.distance[:] = 2**30
    found = checks.backward(p, checks.gradient_of_output(p))
    assert not found["slot_k"].any() and not found["slot_v"].any()
    assert found["k"].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_huge_scores_do_not_overflow(dtype):
    p = checks.problem(dataclasses.replace(SMALL, dtype=dtype, gain=3000.0))
    for found in checks.backward(p, checks.gradient_of_output(p)).values():
        assert np.isfinite(np.asarray(found, np.float32)).all()


def test_too_long_a_window_is_refused():
    p = checks.problem(Size(1, 1200, 1, 1, 128, 1200))
    with pytest.raises(AssertionError, match="the window is too long"):
        checks.backward(p, checks.gradient_of_output(p))
