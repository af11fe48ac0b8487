"""Matmul, its accumulation flags, and transposition."""

import ml_dtypes
import numpy as np
import pytest

from neuron.emulator import RuleError
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import put, run, tile

A = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
B = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], np.float32)
PRODUCT = A.T @ B


def psum(*shape):
    return tile(shape, nl.float32, nl.psum)


def multiply(out, a, b, accumulate):
    nisa.nc_matmul(dst=out, stationary=a, moving=b, accumulate=accumulate)


def test_contracts_over_partitions():
    def body(a, b):
        out = psum(2, 3)
        multiply(out, a, b, False)
        return out

    np.testing.assert_array_equal(run(body, A, B), [[6, 8, 5], [8, 10, 8]])


@pytest.mark.parametrize(
    ("flags", "times"),
    [
        ((False,), 1),
        ((False, True), 2),
        ((False, True, True), 3),
        ((None, None), 2),
        ((None, False), 1),
        ((False, None, True), 3),
    ],
)
def test_accumulation_flags(flags, times):
    def body(a, b):
        out = psum(2, 3)
        for accumulate in flags:
            multiply(out, a, b, accumulate)
        return out

    np.testing.assert_array_equal(run(body, A, B), times * PRODUCT)


def test_auto_accumulation_is_per_element():
    def body(a, b):
        out = psum(2, 3)
        multiply(out[:, 0:1], a, b[:, 0:1], None)
        multiply(out, a, b, None)
        return out

    expected = PRODUCT.copy()
    expected[:, 0] *= 2
    np.testing.assert_array_equal(run(body, A, B), expected)


def test_auto_accumulation_starts_anew_in_a_new_tile():
    def body(a, b):
        for _ in range(2):
            out = psum(2, 3)
            multiply(out, a, b, None)
            multiply(out, a, b, None)
        return out

    np.testing.assert_array_equal(run(body, A, B), 2 * PRODUCT)


def test_zeroed_psum_and_auto_agree():
    def body(a, b):
        out = psum(2, 3)
        nisa.memset(dst=out, value=0.0)
        multiply(out, a, b, None)
        return out

    np.testing.assert_array_equal(run(body, A, B), PRODUCT)


def test_true_on_fresh_psum_is_an_error():
    def body(a, b):
        out = psum(2, 3)
        multiply(out, a, b, True)

    with pytest.raises(RuleError, match="accumulate: True, but no matmul has written 6 of 6"):
        run(body, A, B)


def test_inputs_are_rounded_before_they_are_multiplied():
    def body():
        a = put([[1.00390625]], "bfloat16")
        b = put([[3.0]], "bfloat16")
        out = psum(1, 1)
        multiply(out, a, b, False)
        return out

    assert run(body).item() == 3.0


def test_sums_are_float32_for_half_inputs():
    ones = np.ones((128, 1), ml_dtypes.bfloat16)
    many = np.full((128, 1), 3.0, ml_dtypes.bfloat16)

    def body(a, b):
        out = psum(1, 1)
        multiply(out, a, b, False)
        return out

    assert run(body, ones, many).item() == 384.0


def test_row_to_all_partitions_by_a_matmul_of_ones():
    def body(row):
        out = psum(128, 3)
        multiply(out, nl.ones((1, 128), nl.float32), row, False)
        return out

    result = run(body, np.array([[1.0, 2.0, 3.0]], np.float32))
    np.testing.assert_array_equal(result, np.tile([1.0, 2.0, 3.0], (128, 1)))


@pytest.mark.parametrize("rows", [3, 40])
def test_transpose_picks_an_engine(rows):
    values = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)

    def body(x):
        out = tile((5, rows), nl.float32, nl.psum)
        nisa.nc_transpose(dst=out, data=x)
        return out

    np.testing.assert_array_equal(run(body, values), values.T)


def test_vector_transposes_within_sbuf():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)

    def body(x):
        out = tile((3, 2))
        nisa.nc_transpose(dst=out, data=x, engine=nisa.engine.vector)
        return out

    np.testing.assert_array_equal(run(body, values), values.T)


def test_transpose_keeps_every_bit():
    values = np.array([[np.nan, np.inf, 1.0]], np.float32)

    def body(x):
        out = psum(3, 1)
        nisa.nc_matmul(dst=out, stationary=x, moving=nl.ones((1, 1), nl.float32), is_transpose=True)
        return out

    np.testing.assert_array_equal(run(body, values), values.T)


def test_transpose_of_the_oldest_generation_is_a_product():
    values = np.array([[np.inf, 1.0], [2.0, 3.0]], np.float32)

    def body(x):
        out = psum(2, 2)
        nisa.nc_transpose(dst=out, data=x)
        return out

    np.testing.assert_array_equal(run(body, values), values.T)
    np.testing.assert_array_equal(run(body, values, target="trn1"), [[np.inf, np.nan], [1, 3]])


def test_newest_generation_has_wide_results():
    def body(b):
        out = tile((2, 600), nl.bfloat16, nl.psum)
        multiply(out, nl.ones((3, 2), nl.bfloat16), b, False)
        return out

    wide = np.ones((3, 600), ml_dtypes.bfloat16)
    assert (run(body, wide, target="trn3").astype(np.float32) == 3).all()
