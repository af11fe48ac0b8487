"""The selective scan against its oracle: outputs, state, gradients, memory."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import implementations, reference
from bmojo.ops.native import library
from bmojo.ops.recurrence import COMPANION, SELECTIVE, selective_scan
from tests.numerics import assert_close, relative_rms
from tests.ops.scans import CHUNK, DECAYS, draw_start, draw_steps, every_case, everything

IMPLEMENTATIONS = ("associative", "sequential", "native")
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def draw(dtype, length, decay="middle", zero=False, batch=2, width=5, d_state=3, seed=0):
    """Operands whose log-decays are around ``DECAYS[decay]``; "mixed": from 1e-4 to 50."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, length, width))
    dt = draw_steps(rng, (batch, length, width), decay)
    A = -rng.uniform(0.5, 1.5, size=(width, d_state))
    B, C = rng.normal(size=(2, batch, length, d_state))
    state = np.zeros((batch, width, d_state)) if zero else rng.normal(size=(batch, width, d_state))
    return tuple(jnp.asarray(v, dtype) for v in (x, dt, A, B, C, state))


def scan(*operands, implementation):
    return selective_scan(*operands, implementation=implementation, chunk_size=CHUNK)


oracle = everything(reference.selective_scan)
compiled = {
    name: everything(functools.partial(scan, implementation=name)) for name in IMPLEMENTATIONS
}


@every_implementation
@every_case
@pytest.mark.one_in(5)
def test_outputs_state_and_gradients_are_the_oracles(
    length, documents, batch, implementation, dtype
):
    start = draw_start(batch, length) if documents else None
    with jax.enable_x64(dtype == "float64"):
        for decay, zero in itertools.product(DECAYS, (False, True)):
            operands = draw(dtype, length, decay, zero, batch)
            got, want = (f(operands, start) for f in (compiled[implementation], oracle))
            assert_close(got, want, dtype, f"decay {decay}, zero state {zero}: ")


@every_implementation
def test_bfloat16_inputs_keep_a_float32_state(implementation):
    operands = draw(jnp.bfloat16, 37)
    operands = (*operands[:-1], operands[-1].astype(jnp.float32))
    run = jax.jit(functools.partial(scan, implementation=implementation))
    y, state = run(*operands)
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    want_y, want_state = reference.selective_scan(*(v.astype(jnp.float32) for v in operands))
    assert relative_rms(state, want_state) <= 1e-5
    # y is rounded to the 8 bits of bfloat16.
    assert relative_rms(y.astype(jnp.float32), want_y) <= 1e-2


@every_implementation
@pytest.mark.parametrize("length", [1, 13])
def test_a_zero_step_is_neutral(length, implementation):
    x, dt, A, B, C, state = draw(jnp.float32, length)
    _, after = scan(x, 0 * dt, A, B, C, state, implementation=implementation)
    assert np.array_equal(after, state)


@every_implementation
def test_nothing_crosses_the_start_of_a_document(implementation):
    operands = draw(jnp.float32, 21)
    start = jnp.zeros((2, 21), bool).at[:, 10].set(True)

    def tail(x, state):
        _, *rest, _ = operands
        y, last = scan(x, *rest, state, start, implementation=implementation)
        return jnp.sum(jnp.sin(y[:, 10:])) + jnp.sum(last**2)

    dx, dstate = jax.jit(jax.grad(tail, (0, 1)))(operands[0], operands[-1])
    assert not np.any(dx[:, :10]) and not np.any(dstate)
    assert np.all(dx[:, 10:])


@every_implementation
def test_backward_memory_does_not_grow_with_the_number_of_states(implementation):
    width, d_state = 24, 32

    def temporary(length):
        operands = draw(jnp.float32, length, batch=1, width=width, d_state=d_state)
        run = functools.partial(selective_scan, implementation=implementation, chunk_size=d_state)
        gradient = jax.grad(lambda *v: jnp.sum(jnp.sin(run(*v)[0])), argnums=range(6))
        lowered = jax.jit(gradient).lower(*operands)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    short, long = 256, 1024
    growth = (temporary(long) - temporary(short)) / (4 * (long - short))
    # Floats a token: a dozen arrays of the inputs' size, and not one of width * d_state.
    assert growth <= 8 * width + 6 * d_state


def test_auto_is_for_the_backend():
    assert (
        implementations._automatic(SELECTIVE, "gpu")
        == implementations._automatic(SELECTIVE, "tpu")
        == "pallas"
    )
    assert implementations._automatic(COMPANION, "cpu") == "sequential"
    assert implementations._automatic(COMPANION, "tpu") == "associative"
    assert implementations._automatic(SELECTIVE, "neuron") == "associative"
    assert SELECTIVE.resolve("associative") == "associative"


@pytest.mark.parametrize("why, picked", [(None, "native"), ("no compiler", "sequential")])
def test_auto_on_a_cpu_is_native_where_it_can_be_made(monkeypatch, caplog, why, picked):
    monkeypatch.setattr(library, "why_not", lambda: why)
    automatic = implementations._automatic.__wrapped__
    monkeypatch.setattr(implementations, "_automatic", automatic)
    with caplog.at_level("INFO"):
        assert SELECTIVE.resolve("auto") == picked
    assert caplog.messages == [
        "selective scan on cpu: native"
        if why is None
        else "selective scan on cpu: sequential in place of native: no compiler"
    ]
    if why is not None:
        with pytest.raises(ValueError, match="^implementation: no native kernels: no compiler; "):
            selective_scan(*draw(jnp.float32, 3), implementation="native")


def test_native_is_for_cpus_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="they are for CPUs, and this is a tpu"):
        SELECTIVE.resolve("native")


def test_wrong_arguments_are_named():
    operands = draw(jnp.float32, 3)
    with pytest.raises(
        ValueError, match="must be one of auto, associative, sequential, native, pallas, got 'so'"
    ):
        selective_scan(*operands, implementation="so")
    with pytest.raises(ValueError, match="chunk_size: must be at least 1, got 0"):
        selective_scan(*operands, chunk_size=0)
