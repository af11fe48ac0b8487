"""Element by element on VectorE, ScalarE and GpSimdE, with values worked out by hand."""

import math

import ml_dtypes
import numpy as np
import pytest

from neuron.emulator import RuleError
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import put, run, tile

X = np.array([[1.0, -2.0, 3.0], [4.0, 0.0, -6.0]], np.float32)
Y = np.array([[2.0, 2.0, 2.0], [-4.0, 5.0, -6.0]], np.float32)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (nl.add, X + Y),
        (nl.subtract, X - Y),
        (nl.multiply, X * Y),
        (nl.maximum, [[2, 2, 3], [4, 5, -6]]),
        (nl.minimum, [[1, -2, 2], [-4, 0, -6]]),
        (nl.equal, [[0, 0, 0], [0, 0, 1]]),
        (nl.not_equal, [[1, 1, 1], [1, 1, 0]]),
        (nl.less, [[1, 1, 0], [0, 1, 0]]),
        (nl.less_equal, [[1, 1, 0], [0, 1, 1]]),
        (nl.greater, [[0, 0, 1], [1, 0, 0]]),
        (nl.greater_equal, [[0, 0, 1], [1, 0, 1]]),
        (nl.logical_and, [[1, 1, 1], [1, 0, 1]]),
        (nl.logical_or, [[1, 1, 1], [1, 1, 1]]),
        (nl.logical_xor, [[0, 0, 0], [0, 1, 0]]),
        (nl.power, [[1, 4, 9], [1 / 256, 0, 1 / 46656]]),
    ],
)
def test_tensor_tensor(op, expected):
    def body(x, y):
        out = tile((2, 3))
        nisa.tensor_tensor(dst=out, data1=x, data2=y, op=op)
        return out

    np.testing.assert_allclose(run(body, X, Y), expected, rtol=1e-6)


@pytest.mark.parametrize(("op", "expected"), [(nl.abs_max, -5.0), (nl.abs_min, 3.0)])
def test_by_magnitude_keeps_the_sign(op, expected):
    def body():
        out = tile((1, 1))
        nisa.tensor_tensor(dst=out, data1=put([[-5.0]]), data2=put([[3.0]]), op=op)
        return out

    assert run(body, target="trn3").item() == expected
    with pytest.raises(RuleError, match="needs gen4, the target is gen3"):
        run(body)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (nl.bitwise_and, [[8, 1]]),
        (nl.bitwise_or, [[14, 7]]),
        (nl.bitwise_xor, [[6, 6]]),
    ],
)
def test_bits(op, expected):
    def body():
        out = tile((1, 2), nl.uint32)
        a, b = put([[12, 3]], "uint32"), put([[10, 5]], "uint32")
        nisa.tensor_tensor(dst=out, data1=a, data2=b, op=op)
        return out

    np.testing.assert_array_equal(run(body), expected)


def test_bits_of_a_tile_and_a_number():
    def body():
        x = put([[5, 2]], "int32")
        both, inverted = tile((1, 2), nl.int32), tile((1, 2), nl.int32)
        nisa.tensor_scalar(
            dst=both, data=x, op0=nl.left_shift, operand0=3, op1=nl.bitwise_or, operand1=1
        )
        nisa.tensor_scalar(dst=inverted, data=x, op0=nl.invert, operand0=None)
        return both, inverted

    shifted, inverted = run(body)
    np.testing.assert_array_equal(shifted, [[41, 17]])
    np.testing.assert_array_equal(inverted, [[-6, -3]])


def test_integers_are_exact_on_gpsimd_and_not_on_vector():
    big = np.array([[2**30 + 1]], np.int32)

    def body(engine):
        def add(x):
            out = tile((1, 1), nl.int32)
            nisa.tensor_tensor(dst=out, data1=x, data2=x, op=nl.bitwise_xor)
            nisa.tensor_tensor(dst=out, data1=x, data2=out, op=nl.add, engine=engine)
            return out

        return add

    assert run(body(nisa.engine.unknown), big).item() == 2**30 + 1
    assert run(body(nisa.engine.vector), big).item() == 2**30


def scalar_op(x, **operands):
    out = tile(x.shape)
    nisa.tensor_scalar(dst=out, data=x, **operands)
    return out


@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        (dict(op0=nl.multiply, operand0=2.0), 2 * X),
        (dict(op0=nl.subtract, operand0=1.0), X - 1),
        (dict(op0=nl.subtract, operand0=1.0, reverse0=True), 1 - X),
        (dict(op0=nl.multiply, operand0=2.0, op1=nl.add, operand1=1.0), 2 * X + 1),
        (
            dict(op0=nl.add, operand0=1.0, op1=nl.subtract, operand1=3.0, reverse1=True),
            3 - (X + 1),
        ),
        (dict(op0=nl.abs, operand0=0), np.abs(X)),
        (dict(op0=nl.maximum, operand0=0.0, engine=nisa.engine.vector), np.maximum(X, 0)),
        (dict(op0=nl.add, operand0=1.0, engine=nisa.engine.scalar), X + 1),
    ],
)
def test_tensor_scalar(operands, expected):
    np.testing.assert_array_equal(run(lambda x: scalar_op(x, **operands), X), expected)


def test_tensor_scalar_takes_a_column():
    def body(x):
        return scalar_op(x, op0=nl.multiply, operand0=put([[10.0], [100.0]]))

    np.testing.assert_array_equal(run(body, X), X * [[10], [100]])


def test_rsqrt_on_gpsimd():
    def body():
        return scalar_op(put([[4.0, 16.0]]), op0=nl.rsqrt, operand0=0.0)

    np.testing.assert_array_equal(run(body), [[0.5, 0.25]])


def test_scalar_tensor_tensor():
    def body(x, y):
        out, reverse = tile((2, 3)), tile((2, 3))
        common = dict(data=x, op0=nl.multiply, operand0=3.0, op1=nl.subtract, operand1=y)
        nisa.scalar_tensor_tensor(dst=out, **common)
        nisa.scalar_tensor_tensor(dst=reverse, **common, reverse1=True)
        return out, reverse

    out, reverse = run(body, X, Y)
    np.testing.assert_array_equal(out, 3 * X - Y)
    np.testing.assert_array_equal(reverse, Y - 3 * X)


def test_reciprocal():
    def body():
        x = put([[4.0, -0.5]])
        nisa.reciprocal(dst=x, data=x)
        return x

    np.testing.assert_array_equal(run(body), [[0.25, -2.0]])


def test_copy_predicated_keeps_the_rest():
    def body(x, y):
        mask = put([[1, 0, 1], [0, 0, 2]], "uint8")
        nisa.tensor_copy_predicated(dst=x, src=y, predicate=mask)
        nisa.tensor_copy_predicated(dst=y, src=9.0, predicate=mask, reverse_pred=True)
        return x, y

    x, y = run(body, X, Y)
    np.testing.assert_array_equal(x, [[2, -2, 2], [4, 0, -6]])
    np.testing.assert_array_equal(y, [[2, 9, 2], [9, 9, -6]])


def test_stream_shuffle():
    values = np.arange(64, dtype=np.float32).reshape(64, 1)

    def body(x):
        out = nl.full((64, 1), -1.0, nl.float32)
        nisa.nc_stream_shuffle(dst=out, src=x, shuffle_mask=[3, 255] + [0] * 30)
        return out

    result = run(body, values)[:, 0]
    np.testing.assert_array_equal(result[:4], [3, -1, 0, 0])
    np.testing.assert_array_equal(result[32:36], [35, -1, 32, 32])


def test_helpers_of_the_language():
    def body(x, y):
        return nl.add(x, y), nl.multiply(x, 2.0), nl.exp(x)

    total, double, powers = run(body, X, Y)
    np.testing.assert_array_equal(total, X + Y)
    np.testing.assert_array_equal(double, 2 * X)
    np.testing.assert_allclose(powers, np.exp(X))


ACTIVATIONS = [
    (nl.copy, 0.5, 0.5),
    (nl.square, -3.0, 9.0),
    (nl.abs, -3.0, 3.0),
    (nl.relu, -3.0, 0.0),
    (nl.sigmoid, 1.0, 1 / (1 + math.exp(-1))),
    (nl.silu, 2.0, 2 / (1 + math.exp(-2))),
    (nl.silu_dx, 0.0, 0.5),
    (nl.gelu, 1.0, 0.5 * (1 + math.erf(math.sqrt(0.5)))),
    (nl.tanh, 0.5, math.tanh(0.5)),
    (nl.softplus, -80.0, math.exp(-80)),
    (nl.softplus, 3.0, math.log1p(math.exp(3))),
    (nl.mish, 1.0, math.tanh(math.log1p(math.e))),
    (nl.erf, 0.5, math.erf(0.5)),
    (nl.exp, -1.0, math.exp(-1)),
    (nl.log, 2.0, math.log(2)),
    (nl.sqrt, 2.0, math.sqrt(2)),
    (nl.rsqrt, 4.0, 0.5),
    (nl.reciprocal, 4.0, 0.25),
    (nl.sin, 1.0, math.sin(1)),
    (nl.arctan, 1.0, math.pi / 4),
    (nl.sign, -4.0, -1.0),
]


@pytest.mark.parametrize(("op", "x", "expected"), ACTIVATIONS, ids=lambda v: str(v))
def test_activation_functions(op, x, expected):
    def body():
        value = put([[x]])
        nisa.activation(dst=value, op=op, data=value)
        return value

    assert run(body).item() == pytest.approx(expected, rel=1e-6, abs=1e-40)


def test_activation_scale_and_bias_are_columns():
    def body(x):
        out = tile((2, 3))
        nisa.activation(
            dst=out, op=nl.copy, data=x, scale=put([[2.0], [3.0]]), bias=put([[1.0], [-1.0]])
        )
        return out

    np.testing.assert_array_equal(run(body, X), X * [[2], [3]] + [[1], [-1]])


def test_activation_bias_may_be_bfloat16():
    def body():
        out = tile((1, 1))
        bias = put(np.array([[0.5]], ml_dtypes.bfloat16), "bfloat16")
        nisa.activation(dst=out, op=nl.copy, data=put([[1.0]]), bias=bias)
        return out

    assert run(body).item() == 1.5


def test_activation_sums_live_in_registers():
    def body(x):
        out, sums = tile((2, 3)), [tile((2, 1)) for _ in range(4)]
        common = dict(dst=out, op=nl.copy, data=x, reduce_op=nl.add)
        command = nisa.reduce_cmd
        nisa.activation(**common, reduce_cmd=command.idle, reduce_res=sums[0])
        nisa.activation(**common, reduce_cmd=command.reset_reduce, reduce_res=sums[1])
        nisa.activation(**common, reduce_cmd=command.reduce, reduce_res=sums[2])
        nisa.activation(dst=out, op=nl.copy, data=x, reduce_res=sums[3])
        return tuple(sums)

    before, first, second, idle = run(body, X)
    assert np.isnan(before).all()
    np.testing.assert_array_equal(first, X.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(second, 2 * first)
    np.testing.assert_array_equal(idle, second)


def test_row_pass_of_a_softmax():
    def body(x):
        out, total = tile((2, 3)), tile((2, 1))
        nisa.activation_reduce(
            dst=out,
            op=nl.exp,
            data=x,
            bias=put([[-3.0], [-4.0]]),
            reduce_op=nl.add,
            reduce_res=total,
        )
        return out, total

    out, total = run(body, X)
    np.testing.assert_allclose(out, np.exp(X - [[3], [4]]), rtol=1e-6)
    np.testing.assert_allclose(total, out.sum(axis=1, keepdims=True), rtol=1e-6)
