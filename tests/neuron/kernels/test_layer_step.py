"""The step of a whole layer against the library's recurrent form, token by token."""

import dataclasses

import numpy as np
import pytest

from neuron.checks import layer_step as checks
from neuron.checks.layer_step import Caller, Size


@pytest.mark.parametrize("size", [checks.GRID[i] for i in (2, 6)], ids=str)
def test_agrees_with_the_library(size):
    results = checks.check(size)
    assert all(result.good for result in results), results


def decoded(size):
    """All tokens of a size, and what the caller is left with."""
    u, document = checks.inputs(size)
    caller = Caller(checks.make(size), size.batch, size.dtype, size.programs)
    start = np.diff(document, axis=1, prepend=-1) != 0
    return [caller.step(u[:, t], start[:, t]) for t in range(size.length)], caller


def test_two_programs_share_the_rows():
    size = Size(2, 3, 8, 2, 1, 2, 1, 1, normalized=True)
    one, left = decoded(size)
    two, right = decoded(dataclasses.replace(size, programs=2))
    np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(right.hidden, left.hidden, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(right.place, left.place)


def test_a_document_begins_anew():
    size = Size(1, 6, 8, 2, 2, 8, 2, 2, starts=(3,), normalized=True)
    out, left = decoded(size)
    u, document = checks.inputs(size)
    alone = Caller(checks.make(size), 1, size.dtype)
    again = [alone.step(u[:, t], np.array([t == 3])) for t in range(3, 6)]
    np.testing.assert_allclose(again, out[3:], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(alone.power, left.power, rtol=1e-4)
    np.testing.assert_allclose(alone.score, left.score, rtol=1e-4)
