"""The short convolution kernels against the operation and its derivatives."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bmojo.ops.convolution import causal_convolution
from neuron.kernels.convolution import short_convolution, short_convolution_backward
from tests.neuron.kernels.compare import distance, run, time_last

NAMES = ("x", "kernel", "tail", "bias")


def problem(batch, length, channels, taps, held=None, seed=0):
    rng = np.random.default_rng(seed)
    held = max(taps - 1, 1) if held is None else held
    shapes = dict(
        x=(batch, length, channels),
        kernel=(taps, channels),
        tail=(batch, held, channels),
        bias=(channels,),
    )
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def ages(batch, length, starts):
    """Tokens of the same document before each token, 3 documents' worth before the call."""
    age = np.arange(length)[None].repeat(batch, 0) + 2
    for row in range(batch):
        for start in starts:
            age[row, start:] = np.arange(length - start)
    return age


def operands(p):
    return time_last(p["x"]), time_last(p["tail"]), p["kernel"].T.copy(), p["bias"][:, None].copy()


def forward(p, age=None, programs=None):
    given = None if age is None else age.astype(np.float32)
    return np.moveaxis(run(short_convolution, *operands(p), given, programs=programs), -1, 1)


def backward(p, dout, age=None, programs=None):
    given = None if age is None else age.astype(np.float32)
    found = run(short_convolution_backward, *operands(p), time_last(dout), given, programs=programs)
    dx, dtail, dkernel, dbias = found
    return dict(
        x=np.moveaxis(dx, -1, 1), tail=np.moveaxis(dtail, -1, 1), kernel=dkernel.T, bias=dbias[:, 0]
    )


def oracle(p, dout, age=None):
    """The operation with bias and silu, and its derivatives, in float32."""

    def function(x, kernel, tail, bias):
        return jax.nn.silu(causal_convolution(x, kernel, tail, age) + bias)

    wide = [jnp.asarray(np.asarray(p[name], np.float32)) for name in NAMES]
    out, pull = jax.vjp(function, *wide)
    gradients = pull(jnp.asarray(np.asarray(dout, np.float32)))
    return out, dict(zip(NAMES, gradients, strict=True))


def compare(p, age=None, limit=1e-5, programs=None):
    dout = np.random.default_rng(1).standard_normal(p["x"].shape).astype(p["x"].dtype)
    out, gradients = oracle(p, dout, None if age is None else jnp.asarray(age))
    found = forward(p, age, programs)
    assert found.dtype == p["x"].dtype
    assert distance(found, out) < limit
    for name, gradient in backward(p, dout, age, programs).items():
        assert distance(gradient, gradients[name]) < limit, name


@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps"),
    [
        (1, 1, 1, 4),
        (2, 2, 3, 4),
        (2, 7, 3, 2),
        (1, 512, 5, 4),
        (1, 513, 130, 4),
        (2, 700, 4, 3),
        (1, 20, 300, 1),
        (1, 1030, 2, 8),
        (3, 130, 128, 4),
        (1, 514, 1, 5),
    ],
)
def test_agrees_with_the_operation_and_its_derivatives(batch, length, channels, taps):
    compare(problem(batch, length, channels, taps))


@pytest.mark.parametrize("starts", [[0], [1, 2], [3, 509, 511], [512], [100, 513]])
def test_documents_do_not_see_each_other(starts):
    compare(problem(2, 520, 3, 4), ages(2, 520, starts))


def test_only_the_end_of_a_long_tail_counts():
    p = problem(1, 9, 3, 3, held=6)
    compare(p)
    assert not backward(p, p["x"])["tail"][:, :4].any()


def test_two_programs_share_the_channels():
    compare(problem(2, 140, 256, 4), programs=2)


def test_bfloat16_operands():
    p = problem(2, 530, 5, 4)
    compare({name: value.astype(ml_dtypes.bfloat16) for name, value in p.items()}, limit=2**-8)
