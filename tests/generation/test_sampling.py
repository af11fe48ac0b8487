"""Which tokens may be drawn, against a slow oracle; how often they are; and that noise is a row's
own."""

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.generation.sampling import NOT_A_NUMBER, Sampling, kept, sample

V = 13


def oracle(logits, sampling):
    """Probabilities of one row, token by token."""
    z = np.asarray(logits, np.float64) / sampling.temperature
    p = np.exp(z - z.max())
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    order = order[: sampling.top_k or len(p)]
    total = sum(p[i] for i in order)
    stay, before = [], 0.0
    for i in order:
        if before / total < sampling.top_p:
            stay.append(i)
        before += p[i]
    if sampling.top_p == 1:
        stay = order
    stay = [i for i in stay if p[i] >= sampling.min_p * p.max()]
    result = np.zeros(len(p))
    result[stay] = p[stay] / p[stay].sum()
    return result


FIRST = (np.uint32(0), np.zeros(1, int), np.zeros(1, int))
"""Seed, row and position of a row alone."""


def draws(seed=0, rows=6):
    return np.random.default_rng(seed).normal(size=(rows, V)).astype(np.float32) * 2


CASES = [
    Sampling(),
    Sampling(temperature=0.5, top_k=4),
    Sampling(temperature=2.0, top_p=0.7),
    Sampling(min_p=0.2),
    Sampling(temperature=1.3, top_k=9, top_p=0.9, min_p=0.05),
    Sampling(top_k=1),
    Sampling(top_p=1e-6),
    Sampling(min_p=1.0),
    Sampling(top_k=V + 5),
]


@pytest.mark.parametrize("sampling", CASES, ids=str)
def test_kept_tokens(sampling):
    logits = draws()
    expected = np.stack([oracle(row, sampling) > 0 for row in logits])
    np.testing.assert_array_equal(kept(jnp.asarray(logits), sampling), expected)


def test_top_k_keeps_exactly_k_of_equal_tokens():
    mask = kept(jnp.zeros((1, V)), Sampling(top_k=3))
    assert np.flatnonzero(mask[0]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("sampling", [CASES[0], CASES[4]], ids=str)
def test_frequencies(sampling):
    count = 20_000
    logits = draws(1, 1)
    expected = oracle(logits[0], sampling)
    tokens = sample(
        jnp.broadcast_to(jnp.asarray(logits), (count, V)),
        np.uint32(3),
        np.arange(count, dtype=np.int32),
        np.zeros(count, np.int32),
        sampling=sampling,
    )
    found = np.bincount(np.asarray(tokens), minlength=V) / count
    assert not found[expected == 0].any()
    assert np.abs(found - expected).max() < 5 * 0.5 / np.sqrt(count)


def test_greedy_takes_the_lower_of_equals():
    logits = np.zeros((1, V), np.float32)
    logits[0, [4, 7]] = 1
    tokens = sample(logits, *FIRST, sampling=Sampling(0.0))
    assert tokens.tolist() == [4]


def test_noise_belongs_to_seed_row_and_position():
    logits = np.zeros((40, 500), np.float32)
    rows, positions = np.arange(40, dtype=np.int32), np.full(40, 9, np.int32)
    base = np.asarray(sample(logits, 1, rows, positions, sampling=Sampling()))
    turned = sample(logits, 1, rows[::-1], positions, sampling=Sampling())
    np.testing.assert_array_equal(turned, base[::-1])
    for other in (
        sample(logits, 2, rows, positions, sampling=Sampling()),
        sample(logits, 1, rows + 40, positions, sampling=Sampling()),
        sample(logits, 1, rows, positions + 1, sampling=Sampling()),
    ):
        assert (np.asarray(other) == base).mean() < 0.2


def test_nan_is_no_token():
    logits = np.zeros((2, V), np.float32)
    logits[1, 3] = np.nan
    for sampling in (Sampling(0.0), Sampling()):
        tokens = sample(logits, np.uint32(0), np.zeros(2, int), np.zeros(2, int), sampling=sampling)
        assert tokens[0] != NOT_A_NUMBER
        assert tokens[1] == NOT_A_NUMBER


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.5},
    ],
)
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: .*give"):
        Sampling(**options)


@pytest.mark.parametrize("temperature", [1e-30, 1e-37, 1e-45, 1e-300])
@pytest.mark.parametrize("more", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_a_small_temperature_draws_the_most_likely_token(temperature, more):
    logits = jnp.asarray([[40.0, 41.0, 39.0], [-41.0, -40.0, -39.0]], jnp.float32)
    found = [
        sample(
            logits, np.uint32(seed), np.arange(2), np.arange(2),
            sampling=Sampling(temperature, **more),
        ).tolist()
        for seed in range(3)
    ]  # fmt: skip
    assert found == [[1, 2]] * 3
