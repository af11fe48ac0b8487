"""Reductions, scans and selections along the free axes."""

import ml_dtypes
import numpy as np
import pytest

from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.isa.selections import FP32_MIN
from neuron.emulator.tests.harness import put, run, tile

X = np.array([[1.0, -2.0, 3.0, 5.0], [4.0, 0.0, -6.0, 2.0]], np.float32)
CUBE = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
Command = nisa.reduce_cmd


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (nl.add, [7, 0]),
        (nl.maximum, [5, 4]),
        (nl.minimum, [-2, -6]),
        (nl.multiply, [-30, 0]),
        (nl.subtract, [-5, 8]),
        (nl.logical_and, [1, 0]),
    ],
)
def test_tensor_reduce(op, expected):
    def body(x):
        out = tile((2, 1))
        nisa.tensor_reduce(dst=out, op=op, data=x, axis=1)
        return out

    np.testing.assert_array_equal(run(body, X)[:, 0], expected)


@pytest.mark.parametrize(
    ("axis", "expected"), [((2,), [[6, 22, 38]]), ((1, 2), [[66]]), (-1, [[6, 22, 38]])]
)
def test_reduces_the_last_axes(axis, expected):
    def body(x):
        out = tile((1, np.size(expected)))
        nisa.tensor_reduce(dst=out, op=nl.add, data=x, axis=axis)
        return out

    np.testing.assert_array_equal(run(body, CUBE), expected)


def test_negated_reduction():
    def body(x):
        out = tile((2, 1))
        nisa.tensor_reduce(dst=out, op=nl.maximum, data=x, axis=1, negate=True)
        return out

    np.testing.assert_array_equal(run(body, X), [[-5], [-4]])


def test_tensor_scalar_reduce_and_its_registers():
    def body(x):
        out, one, two = tile((2, 4)), tile((2, 1)), tile((2, 1))
        common = dict(dst=out, data=x, op0=nl.multiply, operand0=2.0, reduce_op=nl.add)
        nisa.tensor_scalar_reduce(**common, reduce_res=one)
        nisa.tensor_scalar_reduce(**common, reduce_res=two, reduce_cmd=Command.reduce)
        return out, one, two

    out, one, two = run(body, X)
    np.testing.assert_array_equal(out, 2 * X)
    np.testing.assert_array_equal(one, [[14], [0]])
    np.testing.assert_array_equal(two, [[28], [0]])


def scan(a, b, initial, op0=nl.multiply, op1=nl.add, dtype=nl.float32, **reverse):
    out = tile(a.shape, dtype)
    nisa.tensor_tensor_scan(dst=out, data0=a, data1=b, initial=initial, op0=op0, op1=op1, **reverse)
    return out


A = np.array([[0.5, 2.0, 0.0, 1.0]], np.float32)
B = np.array([[1.0, 1.0, 3.0, 4.0]], np.float32)


def test_scan_is_a_recurrence():
    np.testing.assert_array_equal(run(lambda a, b: scan(a, b, 8.0), A, B), [[5, 11, 3, 7]])


def test_scan_starts_from_a_column():
    def body(a, b):
        return scan(a, b, put([[8.0]]))

    np.testing.assert_array_equal(run(body, A, B), [[5, 11, 3, 7]])


def test_scan_reversed_operands():
    ones = np.ones((1, 3), np.float32)
    steps = np.array([[5.0, 1.0, 2.0]], np.float32)

    def body(a, b):
        plain = scan(a, b, 1.0, op0=nl.subtract, op1=nl.subtract)
        first = scan(a, b, 1.0, op0=nl.subtract, op1=nl.subtract, reverse0=True)
        second = scan(a, b, 1.0, op0=nl.subtract, op1=nl.subtract, reverse1=True)
        return plain, first, second

    plain, first, second = run(body, ones, steps)
    np.testing.assert_array_equal(plain, [[-5, 5, -6]])
    np.testing.assert_array_equal(first, [[-5, -7, -10]])
    np.testing.assert_array_equal(second, [[5, 5, 6]])


def test_running_maximum():
    def body(x):
        return scan(x, nl.zeros((2, 4), nl.float32), -1e9, op0=nl.maximum)

    np.testing.assert_array_equal(run(body, X), np.maximum.accumulate(X, axis=1))


def test_scan_carries_float32_inside_and_rounds_on_the_way_out():
    steps = 64
    ones = np.ones((1, steps), np.float32)
    small = np.full((1, steps), 1 / 256, np.float32)

    def body(a, b):
        whole = scan(a, b, 1.0, dtype=nl.bfloat16)
        left = scan(a[:, 0:32], b[:, 0:32], 1.0, dtype=nl.bfloat16)
        carry = tile((1, 1))
        nisa.tensor_copy(dst=carry, src=left[:, 31:32])
        right = scan(a[:, 32:64], b[:, 32:64], carry)
        return whole, right

    whole, right = run(body, ones, small)
    assert whole.astype(np.float32)[0, -1] == ml_dtypes.bfloat16(1.25)
    assert right[0, -1] == 1.25
    lost = run(lambda a, b: scan(a[:, 0:1], b[:, 0:1], 1.0, dtype=nl.bfloat16), ones, small)
    assert lost.item() == 1.0


def test_scan_keeps_what_only_float32_can():
    ones, tiny = np.ones((1, 64), np.float32), np.full((1, 64), 2.0**-20, np.float32)
    assert run(lambda a, b: scan(a, b, 1.0), ones, tiny)[0, -1] == 1 + 64 * 2.0**-20


def test_scan_flattens_free_axes():
    def body(x):
        ones = nl.ones((1, 3, 4), nl.float32)
        return scan(ones, x, 0.0)

    np.testing.assert_array_equal(run(body, CUBE).reshape(-1), np.cumsum(np.arange(12)))


def test_cumulative():
    def body(x):
        out, more = tile((2, 4)), tile((2, 4))
        common = dict(src=x, op0=nl.multiply, op1=nl.add, imm0=2.0)
        nisa.tensor_scalar_cumulative(dst=out, **common)
        nisa.tensor_scalar_cumulative(dst=more, **common, reduce_cmd=Command.reduce)
        return out, more

    out, more = run(body, X)
    np.testing.assert_array_equal(out, np.cumsum(2 * X, axis=1))
    np.testing.assert_array_equal(more, np.cumsum(2 * X, axis=1) + out[:, -1:])


def test_cumulative_loads_a_start():
    def body(x):
        out = tile((2, 4))
        nisa.tensor_scalar_cumulative(
            dst=out,
            src=x,
            op0=nl.add,
            op1=nl.subtract,
            imm0=0.0,
            imm1=10.0,
            reduce_cmd=Command.load_reduce,
        )
        return out

    np.testing.assert_array_equal(run(body, X)[0], [-9, 7, -4, 9])


def test_exponential_on_the_newest_generation():
    def body(x):
        out, total = tile((2, 4)), tile((2, 1))
        nisa.exponential(
            dst=out, src=x, max_value=5.0, reduce_res=total, reduce_cmd=Command.reset_reduce
        )
        return out, total

    out, total = run(body, X, target="trn3")
    np.testing.assert_allclose(out, np.exp(X - 5), rtol=1e-6)
    np.testing.assert_allclose(total[:, 0], out.sum(axis=1), rtol=1e-6)


def test_range_select_masks_a_window():
    def body(x):
        out, top = tile((2, 4)), tile((2, 1))
        nisa.range_select(
            dst=out,
            on_true_tile=x,
            comp_op0=nl.greater,
            comp_op1=nl.less_equal,
            bound0=put([[9.0], [10.0]]),
            bound1=put([[11.0], [12.0]]),
            range_start=10,
            reduce_res=top,
        )
        return out, top

    out, top = run(body, X)
    low = np.float32(FP32_MIN)
    np.testing.assert_array_equal(out, [[1, -2, low, low], [low, 0, -6, low]])
    np.testing.assert_array_equal(top, [[1], [0]])


def test_fully_masked_row_is_stable_in_float32_only():
    def body(x):
        out, top = tile((2, 4)), tile((2, 1))
        bound = nl.full((2, 1), -1.0, nl.float32)
        nisa.range_select(
            dst=out,
            on_true_tile=x,
            comp_op0=nl.less,
            comp_op1=nl.less,
            bound0=bound,
            bound1=bound,
            reduce_res=top,
        )
        nisa.tensor_scalar(dst=top, data=top, op0=nl.multiply, operand0=-1.0)
        nisa.activation(dst=out, op=nl.exp, data=out, bias=top)
        return out

    assert (run(body, X) == 1).all()


def test_select_reduce():
    def body(x):
        out, top = tile((2, 4)), tile((2, 1))
        mask = put([[1, 0, 0, 1], [0, 1, 1, 0]], "uint8")
        nisa.select_reduce(
            dst=out,
            predicate=mask,
            on_true=x,
            on_false=-9.0,
            reduce_res=top,
            reduce_cmd=Command.reset_reduce,
        )
        return out, top

    out, top = run(body, X)
    np.testing.assert_array_equal(out, [[1, -9, -9, 5], [-9, 0, -6, -9]])
    np.testing.assert_array_equal(top, [[5], [0]])


def test_idle_leaves_the_registers_undefined():
    def body(x):
        out, top = tile((2, 4)), tile((2, 1))
        mask = put(np.ones((2, 4)), "uint8")
        common = dict(dst=out, predicate=mask, on_true=x, on_false=0.0)
        nisa.select_reduce(**common, reduce_cmd=Command.reset_reduce)
        nisa.select_reduce(**common)
        nisa.select_reduce(**common, reduce_cmd=Command.reduce, reduce_res=top)
        return top

    assert np.isnan(run(body, X)).all()


def test_batch_statistics():
    values = np.arange(14, dtype=np.float32).reshape(2, 7) ** 2

    def body(x):
        stats, result = tile((2, 12)), tile((2, 2))
        nisa.bn_stats(dst=stats[:, 0:6], data=x[:, 0:3])
        nisa.bn_stats(dst=stats[:, 6:12], data=x[:, 3:7])
        nisa.bn_aggr(dst=result, data=stats)
        return stats[:, 0:6], result

    stats, result = run(body, values)
    np.testing.assert_allclose(stats[0], [2, 2, 8, 1, 1, 0])
    np.testing.assert_allclose(result[:, 0], values.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(result[:, 1], values.var(axis=1), rtol=1e-6)
