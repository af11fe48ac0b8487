"""The selective scan kernel against the slow oracle."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bmojo.ops import reference
from neuron.kernels.scan import selective_scan
from tests.neuron.kernels.compare import distance, run, time_last


def problem(batch, length, channels, states, seed=0):
    rng = np.random.default_rng(seed)
    return dict(
        x=rng.standard_normal((batch, length, channels)).astype(np.float32),
        dt=np.exp(rng.normal(-2, 1, (batch, length, channels))).astype(np.float32),
        A=-np.exp(rng.normal(0, 1, (channels, states))).astype(np.float32),
        B=rng.standard_normal((batch, length, states)).astype(np.float32),
        C=rng.standard_normal((batch, length, states)).astype(np.float32),
        state=rng.standard_normal((batch, channels, states)).astype(np.float32),
    )


def kernel(p, programs=None, start=None):
    moved = [time_last(p[name]) for name in ("x", "dt")]
    moved += [p["A"], time_last(p["B"]), time_last(p["C"]), p["state"]]
    if start is not None:
        moved.append(start.astype(np.float32))
    y, state = run(selective_scan, *moved, programs=programs)
    return np.moveaxis(y, -1, 1), state


def oracle(p, start=None):
    """What bmojo.ops.reference gives, in float32."""
    wide = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float32)), p)
    return reference.selective_scan(**wide, start=None if start is None else jnp.asarray(start))


@pytest.mark.parametrize(
    ("batch", "length", "channels", "states"),
    [(1, 1, 1, 1), (2, 7, 3, 2), (1, 33, 130, 3), (2, 520, 5, 2), (1, 66, 4, 90)],
)
def test_agrees_with_the_oracle(batch, length, channels, states):
    p = problem(batch, length, channels, states)
    y, state = kernel(p)
    expected_y, expected_state = oracle(p)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_documents_forget_what_was_before():
    p = problem(2, 530, 4, 2)
    start = np.zeros((2, 530), bool)
    start[0, [0, 5, 512]] = True
    start[1, [3, 511, 529]] = True
    y, state = kernel(p, start=start)
    expected_y, expected_state = oracle(p, start)
    assert distance(y, expected_y) < 1e-5
    assert distance(state, expected_state) < 1e-5


def test_state_continues_a_sequence():
    p = problem(1, 20, 3, 2)
    whole, last = kernel(p)
    parts, state = [], p["state"]
    for part in (slice(0, 13), slice(13, 20)):
        cut = {n: p[n][:, part] for n in ("x", "dt", "B", "C")}
        y, state = kernel(dict(cut, A=p["A"], state=state))
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(state, last)


def test_two_programs_share_the_channels():
    p = problem(1, 9, 256, 2)
    one, two = kernel(p), kernel(p, programs=2)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_bfloat16_inputs_keep_a_float32_state():
    p = problem(1, 64, 4, 4)
    for name in ("x", "B", "C"):
        p[name] = p[name].astype(ml_dtypes.bfloat16)
    y, state = kernel(p)
    expected_y, expected_state = oracle(p)
    assert y.dtype == ml_dtypes.bfloat16 and state.dtype == np.float32
    assert distance(y, expected_y) < 2**-8
    assert distance(state, expected_state) < 1e-5
