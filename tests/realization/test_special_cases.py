"""Known models are realizations: simulation, windows, Mamba, predictors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import reference
from bmojo.realization import (
    StateSpace,
    companion,
    innovation,
    selective_ssm,
    shift_register,
    simulate,
    sliding_window_attention,
)
from tests.numerics import assert_close


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("length", [1, 2, 17])
def test_simulation_is_the_loop_over_time(length, varying):
    rng = np.random.default_rng(0)
    lead = (length,) if varying else ()
    A, B, C, D = (rng.normal(size=lead + s) for s in ((3, 3), (3, 2), (4, 3), (4, 2)))
    A = 0.4 * A
    u, x0 = rng.normal(size=(length, 2)), rng.normal(size=3)
    system = StateSpace(*map(jnp.asarray, (A, B, C, D)))
    outputs, states = simulate(system, jnp.asarray(u), jnp.asarray(x0))
    x, expected = x0, ([], [])
    for t in range(length):
        a, b, c, d = (m[t] if varying else m for m in (A, B, C, D))
        x = a @ x + b @ u[t]
        expected[0].append(c @ x + d @ u[t])
        expected[1].append(x)
    assert_close((outputs, states), tuple(map(np.stack, expected)), "float64")


def test_simulating_nothing_gives_nothing():
    outputs, states = simulate(shift_register(3, 2), jnp.zeros((0, 2)), jnp.ones(6))
    assert outputs.shape == (0, 6) and states.shape == (0, 6)


def test_a_shift_register_holds_the_last_tokens_exactly_and_then_nothing():
    tokens = np.random.default_rng(1).normal(size=(9, 2))
    held, _ = simulate(shift_register(4, 2), jnp.asarray(tokens))
    padded = np.concatenate([np.zeros((3, 2)), tokens])
    expected = np.stack([padded[t : t + 4].ravel() for t in range(9)])
    np.testing.assert_array_equal(held, expected)


@pytest.mark.parametrize("window", [1, 5, 20])
def test_sliding_window_attention_is_a_nilpotent_realization(window):
    rng = np.random.default_rng(2)
    length, d_head, d_value = 15, 4, 3
    q, k = rng.normal(size=(2, length, d_head))
    v = rng.normal(size=(length, d_value))
    expected = np.zeros((length, d_value))
    for t in range(length):
        seen = range(max(0, t - window + 1), t + 1)
        weights = np.exp([q[t] @ k[s] / np.sqrt(d_head) for s in seen])
        expected[t] = weights @ v[list(seen)] / weights.sum()
    actual = sliding_window_attention(*map(jnp.asarray, (q, k, v)), window)
    assert_close(actual, expected, "float64")


def test_mamba_is_a_diagonal_input_varying_realization():
    """One channel, against the loop and against the op that layers use."""
    rng = np.random.default_rng(3)
    length, d_state = 29, 5
    dt = np.log1p(np.exp(rng.normal(size=length)))
    A = -np.arange(1.0, d_state + 1)
    B, C = rng.normal(size=(2, length, d_state))
    x, D, h0 = rng.normal(size=length), 0.7, rng.normal(size=d_state)
    system = selective_ssm(*map(jnp.asarray, (dt, A, B, C, D)))
    outputs, states = simulate(system, jnp.asarray(x)[:, None], jnp.asarray(h0))

    h, expected = h0, []
    for t in range(length):
        h = np.exp(dt[t] * A) * h + dt[t] * B[t] * x[t]
        expected.append(C[t] @ h + D * x[t])
    assert_close(outputs[:, 0], np.array(expected), "float64")
    assert_close(states[-1], h, "float64")

    one = tuple(jnp.asarray(s) for s in (x[None, :, None], dt[None, :, None], A[None]))
    y, last = reference.selective_scan(
        *one, jnp.asarray(B[None]), jnp.asarray(C[None]), jnp.asarray(h0[None, None])
    )
    assert_close((y[0, :, 0] + D * x, last[0, 0]), (outputs[:, 0], states[-1]), "float64")


def test_the_innovation_of_an_autoregression_is_the_noise_that_drives_it():
    rng = np.random.default_rng(4)
    a, noise = jnp.asarray([1.2, -0.7, 0.1]), jnp.asarray(rng.normal(size=(60, 1)))
    system = companion(a)
    start = jnp.asarray(rng.normal(size=3))
    z, _ = simulate(system, noise, start)
    A, C, K = system.A, system.A[-1:], system.B
    assert_close(innovation(A, C, K, z, start), noise, "float64")
    wrong = companion(a + jnp.asarray([0.2, 0.0, 0.0])).A
    assert np.var(innovation(wrong, wrong[-1:], K, z, start)) > 1.05 * np.var(noise)
    # The fixed predictor of the layers, an average of the last three outputs, is one as well.
    mean = companion(jnp.full((3,), 1 / 3)).A
    average = innovation(mean, mean[-1:], K, z, jnp.zeros(3))
    padded = np.concatenate([np.zeros(3), z[:, 0]])
    expected = z[:, 0] - np.stack([padded[t : t + 3].mean() for t in range(60)])
    assert_close(average[:, 0], expected, "float64")
