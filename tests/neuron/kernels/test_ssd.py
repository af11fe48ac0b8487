"""The kernel of state-space duality against the slow oracle."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bmojo.ops import reference
from neuron.kernels.ssd import ssd
from tests.neuron.kernels.compare import distance, run

NAMES = ("x", "dt", "A", "B", "C", "state")


def problem(batch, length, heads, width, states, seed=0):
    rng = np.random.default_rng(seed)
    return dict(
        x=rng.standard_normal((batch, length, heads, width)).astype(np.float32),
        dt=np.exp(rng.normal(-2, 1, (batch, length, heads))).astype(np.float32),
        A=-np.exp(rng.normal(0, 1, heads)).astype(np.float32),
        B=rng.standard_normal((batch, length, states)).astype(np.float32),
        C=rng.standard_normal((batch, length, states)).astype(np.float32),
        state=rng.standard_normal((batch, heads, width, states)).astype(np.float32),
    )


def kernel(p, start=None, programs=None):
    starts = None if start is None else start.astype(np.float32)
    return run(ssd, *(p[name] for name in NAMES), starts, programs=programs)


def oracle(p, start=None):
    """What bmojo.ops.reference gives, in float32."""
    wide = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float32)), p)
    return reference.ssd(**wide, start=None if start is None else jnp.asarray(start))


SIZES = [
    (1, 1, 1, 1, 1),
    (2, 7, 3, 2, 5),
    (1, 128, 2, 64, 64),
    (1, 129, 5, 33, 3),
    (2, 300, 4, 16, 8),
    (1, 130, 1, 200, 4),
    (1, 5, 2, 512, 2),
    (1, 33, 9, 64, 128),
    (3, 64, 6, 32, 16),
    (1, 257, 3, 128, 7),
]


@pytest.mark.parametrize(("batch", "length", "heads", "width", "states"), SIZES)
def test_agrees_with_the_oracle(batch, length, heads, width, states):
    p = problem(batch, length, heads, width, states)
    y, state = kernel(p)
    expected_y, expected_state = oracle(p)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


@pytest.mark.parametrize("starts", [[0], [5, 127], [128], [127, 128, 129, 139]])
def test_documents_forget_what_was_before(starts):
    p = problem(2, 140, 3, 4, 5)
    start = np.zeros((2, 140), bool)
    start[0, starts] = True
    y, state = kernel(p, start)
    expected_y, expected_state = oracle(p, start)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_state_continues_a_sequence():
    p = problem(1, 150, 3, 4, 5)
    whole, last = kernel(p)
    parts, state = [], p["state"]
    for part in (slice(0, 13), slice(13, 150)):
        cut = {n: p[n][:, part] for n in ("x", "dt", "B", "C")}
        y, state = kernel(dict(cut, A=p["A"], state=state))
        parts.append(y)
    assert distance(np.concatenate(parts, axis=1), whole) < 1e-6
    assert distance(state, last) < 1e-6


def test_small_decays_beside_large_ones_keep_their_digits():
    p = problem(1, 128, 2, 4, 4)
    p["dt"] *= 1e-3
    p["dt"][:, 40:80] = 1e3
    p["A"][:] = -1.0
    y, state = kernel(p)
    expected_y, expected_state = oracle(p)
    assert distance(y[:, 81:], expected_y[:, 81:]) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_two_programs_share_the_heads():
    p = problem(1, 140, 10, 8, 4)
    one, two = kernel(p), kernel(p, programs=2)
    assert distance(two[0], one[0]) < 1e-6
    assert distance(two[1], one[1]) < 1e-6


def test_bfloat16_inputs_keep_a_float32_state():
    p = problem(1, 300, 4, 16, 8)
    for name in ("x", "B", "C"):
        p[name] = p[name].astype(ml_dtypes.bfloat16)
    y, state = kernel(p)
    expected_y, expected_state = oracle(p)
    assert y.dtype == ml_dtypes.bfloat16 and state.dtype == np.float32
    assert distance(y, expected_y) < 2**-8
    assert distance(state, expected_state) < 2**-8
