"""The innovation kernel against the slow oracle and the op of the library."""

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import innovation as ops
from bmojo.ops import reference
from neuron.kernels.innovation import innovation
from tests.neuron.kernels.compare import distance, run, time_last


def outputs(batch, length, channels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, length, channels)).astype(np.float32)


def weights(span):
    return tuple(float(c) for c in ops.predictor(span))


def library(y, tail, span, age=None):
    """What bmojo.ops.innovation gives."""
    age = None if age is None else jnp.asarray(age)
    residual = ops.residual(jnp.asarray(y), jnp.asarray(tail), ops.predictor(span), age)
    return ops.innovation(residual)[0]


def documents(length, edges):
    """Id of each token's document, and the tokens of it before each token."""
    document = np.searchsorted(edges, np.arange(length), "right")
    age = np.arange(length) - np.concatenate([[0], edges])[document]
    return document.tolist(), age[None].astype(np.int32)


@pytest.mark.parametrize(("batch", "length", "channels", "span"), [(1, 1, 1, 1), (2, 9, 3, 4)])
def test_agrees_with_the_oracle(batch, length, channels, span):
    y = outputs(batch, length, channels)
    tail = np.zeros((batch, channels, span), np.float32)
    score = run(innovation, time_last(y), tail, weights(span))
    for row in range(batch):
        expected = reference.innovation(jnp.asarray(y[row]), span, [0] * length)
        assert distance(score[row], expected) < 1e-5


def test_documents_are_apart():
    document, age = documents(14, [2, 5, 11])
    y = outputs(1, 14, 4)
    score = run(innovation, time_last(y), np.ones((1, 4, 3), np.float32), weights(3), age)
    assert distance(score[0], reference.innovation(jnp.asarray(y[0]), 3, document)) < 1e-5


@pytest.mark.parametrize("edges", [None, [2, 511, 513]])
def test_tiles_of_time_and_channels_join(edges):
    length, channels, span = 530, 130, 4
    y, tail = outputs(1, length, channels), outputs(1, span, channels, seed=1)
    age = None if edges is None else documents(length, edges)[1]
    if age is not None:
        tail[:] = 0
    score = run(innovation, time_last(y), time_last(tail), weights(span), age)
    assert distance(score, library(y, tail, span, age)) < 1e-5


def test_tail_may_be_longer_than_the_span():
    y, tail = outputs(2, 12, 3), outputs(2, 6, 3, seed=1)
    score = run(innovation, time_last(y), time_last(tail), weights(4))
    assert distance(score, library(y, tail, 4)) < 1e-5


def test_two_programs_share_the_rows():
    y, tail = time_last(outputs(4, 9, 3)), np.zeros((4, 3, 2), np.float32)
    one = run(innovation, y, tail, weights(2))
    np.testing.assert_array_equal(run(innovation, y, tail, weights(2), programs=2), one)
