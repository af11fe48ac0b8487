"""Blocks of a vocabulary give the loss of all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops.cross_entropy import blocked_cross_entropy
from tests.numerics import assert_close


def draw(dtype, length=23, count=37, width=8, scale=1.0):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(length, width)) * scale, dtype)
    table = jnp.asarray(rng.normal(size=(count, width)), dtype)
    return x, table, jnp.asarray(rng.integers(0, count, length), jnp.int32)


def plain(x, table, answers):
    logits = np.asarray(x, np.float64) @ np.asarray(table, np.float64).T
    peak = logits.max(axis=-1, keepdims=True)
    lse = np.log(np.exp(logits - peak).sum(axis=-1)) + peak[:, 0]
    chosen = np.take_along_axis(logits, np.asarray(answers)[:, None], axis=1)[:, 0]
    return lse - chosen, logits.argmax(axis=-1) == np.asarray(answers)


@pytest.mark.parametrize("words", [1, 10, 37, 64])
@pytest.mark.parametrize("tokens", [1, 5, 100])
@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.one_in(3)
def test_losses_are_those_of_all_logits(dtype, words, tokens, scale):
    x, table, answers = draw(dtype, scale=scale)
    losses, right = blocked_cross_entropy(x, table, answers, words, tokens)
    expected, hits = plain(x, table, answers)
    assert_close(losses, expected, dtype)
    np.testing.assert_array_equal(right, hits)


@pytest.mark.parametrize(("words", "tokens"), [(10, 5), (37, 100), (64, 23)])
def test_gradients_are_those_of_all_logits(dtype, words, tokens):
    x, table, answers = draw(dtype)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=len(x)), dtype)

    def blocked(x, table):
        return blocked_cross_entropy(x, table, answers, words, tokens)[0] @ weight

    def whole(x, table):
        logits = jax.nn.log_softmax(x @ table.T)
        return -jnp.take_along_axis(logits, answers[:, None], axis=1)[:, 0] @ weight

    assert_close(jax.grad(blocked, (0, 1))(x, table), jax.grad(whole, (0, 1))(x, table), dtype)


def test_the_first_of_equally_likely_words_is_the_likeliest():
    x, table = jnp.ones((1, 2)), jnp.ones((9, 2))
    for answer in range(9):
        _, right = blocked_cross_entropy(x, table, jnp.array([answer]), words=4)
        assert bool(right[0]) == (answer == 0)


def test_no_logits_of_all_words_exist():
    x, table, answers = draw("float32", length=64, count=4096, width=4)

    def temporary(words):
        def loss(x, table):
            return blocked_cross_entropy(x, table, answers, words, 64)[0].sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, table).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(4096) > 64 * 4096 * 4 > 2 * temporary(256)
