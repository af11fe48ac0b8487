"""State-space duality against its oracle: outputs, state, gradients, memory."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import implementations, reference
from bmojo.ops.native import library
from bmojo.ops.ssd import IMPLEMENTATIONS as KNOWN
from bmojo.ops.ssd import ssd
from tests.numerics import assert_close, relative_rms
from tests.ops.scans import CHUNK, DECAYS, draw_start, draw_steps, every_case, everything


def draw(dtype, length, decay="middle", zero=False, batch=2, heads=3, width=2, d_state=4, seed=0):
    """Operands whose log-decays are around ``DECAYS[decay]``; "mixed": from 1e-4 to 50."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, length, heads, width))
    dt = draw_steps(rng, (batch, length, heads), decay)
    A = -rng.uniform(0.5, 1.5, size=heads)
    B, C = rng.normal(size=(2, batch, length, d_state))
    state = rng.normal(size=(batch, heads, width, d_state)) * (not zero)
    return tuple(jnp.asarray(v, dtype) for v in (x, dt, A, B, C, state))


IMPLEMENTATIONS = ("xla", "native")
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def chunkwise(*operands, implementation):
    return ssd(*operands, chunk_size=CHUNK, implementation=implementation)


oracle = everything(reference.ssd)
compiled = {
    name: everything(functools.partial(chunkwise, implementation=name)) for name in IMPLEMENTATIONS
}


@every_implementation
@every_case
@pytest.mark.one_in(3)
def test_outputs_state_and_gradients_are_the_oracles(
    length, documents, batch, implementation, dtype
):
    start = draw_start(batch, length) if documents else None
    with jax.enable_x64(dtype == "float64"):
        for decay, zero in itertools.product(DECAYS, (False, True)):
            operands = draw(dtype, length, decay, zero, batch)
            got, want = compiled[implementation](operands, start), oracle(operands, start)
            assert_close(got, want, dtype, f"decay {decay}, zero state {zero}: ")


@every_implementation
def test_small_decays_are_exact_beside_large_ones(implementation):
    # Strong decays first: their sum is near -3000, where float32 has steps of 2e-4.
    x, dt, A, B, C, state = draw(jnp.float32, 64, "near 1", zero=True, heads=1)
    dt = dt.at[:, :60].set(50.0)
    y, _ = ssd(x, dt, A, B, C, state, chunk_size=64, implementation=implementation)
    want, _ = reference.ssd(x, dt, A, B, C, state)
    assert relative_rms(y[:, 61:], want[:, 61:]) <= 1e-6


@every_implementation
def test_bfloat16_inputs_keep_a_float32_state(implementation):
    operands = draw(jnp.bfloat16, 13)
    operands = (*operands[:-1], operands[-1].astype(jnp.float32))
    y, state = chunkwise(*operands, implementation=implementation)
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want_y, want_state = reference.ssd(*(v.astype(jnp.float32) for v in operands))
    assert relative_rms(state, want_state) <= 1e-5
    # y is rounded to the 8 bits of bfloat16.
    assert relative_rms(y.astype(jnp.float32), want_y) <= 1e-2


@every_implementation
@pytest.mark.parametrize("length", [1, 13])
def test_a_zero_step_is_neutral(length, implementation):
    x, dt, A, B, C, state = draw(jnp.float32, length)
    _, after = chunkwise(x, 0 * dt, A, B, C, state, implementation=implementation)
    assert np.array_equal(after, state)


@every_implementation
def test_nothing_crosses_the_start_of_a_document(implementation):
    operands = draw(jnp.float32, 21)
    start = jnp.zeros((2, 21), bool).at[:, 10].set(True)

    def tail(x, state):
        _, *rest, _ = operands
        y, last = chunkwise(x, *rest, state, start, implementation=implementation)
        return jnp.sum(jnp.sin(y[:, 10:])) + jnp.sum(last**2)

    dx, dstate = jax.jit(jax.grad(tail, (0, 1)))(operands[0], operands[-1])
    assert not np.any(dx[:, :10]) and not np.any(dstate)
    assert np.all(dx[:, 10:])


@every_implementation
def test_backward_memory_does_not_grow_with_the_number_of_states(implementation):
    run = functools.partial(ssd, implementation=implementation)
    heads, width, d_state = 4, 8, 64

    def temporary(length):
        operands = draw(jnp.float32, length, batch=1, heads=heads, width=width, d_state=d_state)
        gradient = jax.grad(lambda *v: jnp.sum(jnp.sin(run(*v)[0])), argnums=range(6))
        lowered = jax.jit(gradient).lower(*operands)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    short, long = 256, 1024
    growth = (temporary(long) - temporary(short)) / (4 * (long - short))
    # Floats a token: a few arrays of the inputs' size, and not one of heads * width * d_state.
    assert growth <= 8 * heads * width + 6 * d_state


def test_a_chunk_has_at_least_one_token():
    with pytest.raises(ValueError, match="chunk_size: must be at least 1, got 0"):
        ssd(*draw(jnp.float32, 3), chunk_size=0)


@pytest.mark.parametrize("why, picked", [(None, "native"), ("no compiler", "xla")])
def test_auto_on_a_cpu_is_native_where_it_can_be_made(monkeypatch, caplog, why, picked):
    monkeypatch.setattr(library, "why_not", lambda: why)
    automatic = implementations._automatic.__wrapped__
    monkeypatch.setattr(implementations, "_automatic", automatic)
    with caplog.at_level("INFO"):
        assert KNOWN.resolve("auto") == picked
    reason = "" if why is None else " in place of native: no compiler"
    assert caplog.messages == [f"Mamba-2's scan on cpu: {picked}{reason}"]
    if why is not None:
        with pytest.raises(ValueError, match="^implementation: no native kernels: no compiler; "):
            ssd(*draw(jnp.float32, 3), implementation="native")


def test_on_accelerators_xla_multiplies():
    assert implementations._automatic(KNOWN, "tpu") == "xla"
    assert implementations._automatic(KNOWN, "gpu") == "xla"


def test_an_unknown_implementation():
    with pytest.raises(ValueError, match="implementation: must be one of auto, xla, native, got"):
        ssd(*draw(jnp.float32, 3), implementation="pallas")
