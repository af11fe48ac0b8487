"""Mamba-2's recurrence in C++: any sizes, chunks, threads, extremes, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import reference
from bmojo.ops.ssd import ssd
from tests.numerics import assert_close
from tests.ops.scans import draw_start, everything
from tests.ops.test_ssd import draw

native = functools.partial(ssd, implementation="native")
compiled, oracle = everything(native), everything(reference.ssd)


@pytest.mark.parametrize("heads, width, d_state", [(1, 1, 1), (2, 16, 16), (5, 33, 17), (3, 7, 40)])
@pytest.mark.one_in(3)
def test_any_number_of_heads_channels_and_states(heads, width, d_state, dtype):
    operands = draw(dtype, 45, "mixed", heads=heads, width=width, d_state=d_state)
    start = draw_start(2, 45)
    assert_close(compiled(operands, start), oracle(operands, start), dtype.name)


@pytest.mark.parametrize("size", [1, 7, 16, 17, 45, 100])
def test_any_chunk(size):
    operands, start = draw(jnp.float32, 45, heads=2, width=5), draw_start(2, 45)
    run = everything(functools.partial(native, chunk_size=size))
    assert_close(run(operands, start), oracle(operands, start), "float32")


def test_threads_do_not_change_a_bit():
    operands = draw(jnp.float32, 300, heads=6, width=20, d_state=9, batch=3)
    first = compiled(operands, None)
    by_xla = everything(functools.partial(ssd, implementation="xla"))
    assert_close(first, by_xla(operands, None), "float32")
    for _ in range(5):
        again = compiled(operands, None)
        assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))


def test_gradients_of_small_decays_are_exact_beside_large_ones():
    x, dt, A, B, C, state = draw(jnp.float32, 64, "near 1", heads=1)
    dt = dt.at[:, :60].set(50.0)
    got, want = (f((x, dt, A, B, C, state), None)[1]["dt"][:, 61:] for f in (compiled, oracle))
    assert_close(got, want, "float32")


def test_what_decays_beyond_all_numbers_is_zero(dtype):
    x, dt, A, B, C, state = draw(dtype, 21)
    strong = jnp.full_like(A, -0.5 * jnp.finfo(dtype).max)
    (y, last), gradients = compiled((x, 10 + dt, strong, B, C, state), None)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves((y, last, gradients)))
    want = ((10 + dt)[..., None] * x)[:, -1, :, :, None] * B[:, -1, None, None]
    assert_close(last, want, dtype.name)


def test_what_is_not_a_number_stays_visible():
    x, dt, A, B, C, state = draw(jnp.float32, 21)
    _, last = native(x, dt, A.at[1].set(jnp.nan), B, C, state)
    assert np.all(np.isnan(last[:, 1])) and np.all(np.isfinite(last[:, [0, 2]]))


def test_a_mapped_scan_is_the_scan_of_each():
    operands = draw(jnp.float32, 9, batch=6)
    x, dt, A, B, C, state = operands
    parts = [v.reshape(3, 2, *v.shape[1:]) for v in (x, dt, B, C, state)]

    def one(x, dt, B, C, state):
        return native(x, dt, A, B, C, state)

    got = jax.jit(jax.vmap(one))(*parts)
    want = native(*operands)
    assert_close(jax.tree.map(lambda v: v.reshape(6, *v.shape[2:]), got), want, "float32")
