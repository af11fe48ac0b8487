"""The backward kernel of state-space duality against derivatives of operation and oracle."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bmojo.ops import reference
from bmojo.ops.ssd import ssd as operation
from neuron.kernels.ssd import ssd
from neuron.kernels.ssd_backward import ssd_backward
from tests.neuron.kernels.compare import distance, run
from tests.neuron.kernels.test_ssd import NAMES, SIZES, problem


def cotangents(p, seed=1):
    rng = np.random.default_rng(seed)
    dy = rng.standard_normal(p["x"].shape).astype(p["x"].dtype)
    return dy, rng.standard_normal(p["state"].shape).astype(np.float32)


def kernel(p, dy, dlast, start=None, programs=None):
    """Gradients by name."""
    starts = None if start is None else start.astype(np.float32)
    operands = [p[name] for name in NAMES]
    edges = run(ssd, *operands, starts, True, programs=programs)[2]
    found = run(ssd_backward, *operands[:-1], edges, dy, dlast, starts, programs=programs)
    dx, ddt, da, dmaps, dstate = found
    return dict(x=dx, dt=ddt, A=da, B=dmaps[0], C=dmaps[1], state=dstate)


def expected(function, p, dy, dlast, start=None):
    """jax's gradients, in float32."""
    wide = [jnp.asarray(np.asarray(p[name], np.float32)) for name in NAMES]

    @jax.jit
    def gradients(*operands):
        given = start if start is None else jnp.asarray(start)
        _, pull = jax.vjp(lambda *o: function(*o, given), *operands)
        return pull((jnp.asarray(np.asarray(dy, np.float32)), jnp.asarray(dlast)))

    return dict(zip(NAMES, gradients(*wide), strict=True))


def check(found, wanted, limit=1e-5):
    for name in NAMES:
        assert distance(found[name], wanted[name]) < limit, name


@pytest.mark.parametrize(("batch", "length", "heads", "width", "states"), SIZES)
def test_agrees_with_derivatives_of_the_operation(batch, length, heads, width, states):
    p = problem(batch, length, heads, width, states)
    dy, dlast = cotangents(p)
    check(kernel(p, dy, dlast), expected(operation, p, dy, dlast))


@pytest.mark.parametrize("starts", [[0], [5, 127], [128], [127, 128, 129, 139]])
def test_documents_end_the_flow(starts):
    p = problem(2, 140, 3, 4, 5)
    start = np.zeros((2, 140), bool)
    start[0, starts] = True
    dy, dlast = cotangents(p)
    found = kernel(p, dy, dlast, start)
    check(found, expected(operation, p, dy, dlast, start))
    assert found["state"][0].any() == (0 not in starts) and found["state"][1].any()


def test_agrees_with_derivatives_of_the_oracle():
    p = problem(1, 21, 3, 4, 5)
    start = np.zeros((1, 21), bool)
    start[0, 11] = True
    dy, dlast = cotangents(p)
    check(kernel(p, dy, dlast, start), expected(reference.ssd, p, dy, dlast, start))


def test_gradients_of_parts_make_up_the_whole():
    p = problem(1, 150, 3, 4, 5)
    dy, dlast = cotangents(p)
    whole = kernel(p, dy, dlast)
    timed = ("x", "dt", "B", "C")
    first = {n: p[n][:, :13] for n in timed} | dict(A=p["A"], state=p["state"])
    middle = run(ssd, *(first[name] for name in NAMES))[1]
    second = {n: p[n][:, 13:] for n in timed} | dict(A=p["A"], state=middle)
    late = kernel(second, dy[:, 13:], dlast)
    early = kernel(first, dy[:, :13], late["state"])
    for name in timed:
        joined = np.concatenate([early[name], late[name]], axis=1)
        assert distance(joined, whole[name]) < 2e-6, name
    assert distance(early["A"] + late["A"], whole["A"]) < 2e-6
    assert distance(early["state"], whole["state"]) < 2e-6


def test_small_gradients_of_decays_keep_their_digits():
    """Where nearly nothing is left of a token at the next one, little flows over that."""
    p = problem(1, 128, 2, 4, 4)
    p["dt"] = np.full_like(p["dt"], 10.0)
    p["A"][:] = -1.0
    dy, dlast = cotangents(p)
    check(kernel(p, dy, dlast), expected(operation, p, dy, dlast))


def test_two_programs_share_the_heads():
    p = problem(2, 140, 10, 8, 4)
    dy, dlast = cotangents(p)
    check(kernel(p, dy, dlast, programs=2), kernel(p, dy, dlast), 1e-6)


def test_bfloat16_operands():
    p = problem(1, 300, 4, 64, 8)
    for name in ("x", "B", "C"):
        p[name] = p[name].astype(ml_dtypes.bfloat16)
    dy, dlast = cotangents(p)
    found = kernel(p, dy, dlast)
    assert found["x"].dtype == ml_dtypes.bfloat16
    check(found, expected(operation, p, dy, dlast), 2**-7)  # two roundings
