"""The short convolution kernels against the operation and its derivatives."""

import pytest

from neuron.checks.check import distance
from neuron.checks.convolution import (
    SIZES,
    backward,
    cotangent,
    expected,
    forward,
    problem,
    segment_positions,
)


def compare(p, segment_pos=None, limit=1e-5, programs=None):
    dout = cotangent(p)
    out, gradients = expected(p, dout, segment_pos)
    found = forward(p, segment_pos, programs)
    assert found.dtype == p["x"].dtype
    assert distance(found, out) < limit
    for name, gradient in backward(p, dout, segment_pos, programs).items():
        assert distance(gradient, gradients[name]) < limit, name


@pytest.mark.parametrize(("batch", "length", "channels", "taps"), SIZES)
def test_agrees_with_the_operation_and_its_derivatives(batch, length, channels, taps):
    compare(problem(batch, length, channels, taps))


@pytest.mark.parametrize("starts", [[0], [1, 2], [3, 509, 511], [512], [100, 513]])
def test_documents_do_not_see_each_other(starts):
    compare(problem(2, 520, 3, 4), segment_positions(2, 520, starts))


def test_only_the_end_of_a_long_tail_counts():
    p = problem(1, 9, 3, 3, held=6)
    compare(p)
    assert not backward(p, p["x"])["tail"][:, :4].any()


def test_two_programs_share_the_channels():
    compare(problem(2, 140, 256, 4), programs=2)


def test_bfloat16_operands():
    compare(problem(2, 530, 5, 4, dtype="bfloat16"), limit=2**-8)
