"""The selective scan in C++: blocks of channels and states, threads, extremes, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import reference
from bmojo.ops.recurrence import selective_scan
from tests.numerics import assert_close
from tests.ops.scans import draw_start, everything
from tests.ops.test_recurrence import draw

native = functools.partial(selective_scan, implementation="native")
compiled, oracle = everything(native), everything(reference.selective_scan)


@pytest.mark.parametrize("width, d_state", [(1, 1), (16, 16), (33, 17), (96, 7), (150, 4)])
@pytest.mark.one_in(5)
def test_any_number_of_channels_and_states(width, d_state, dtype):
    operands = draw(dtype, 37, "mixed", width=width, d_state=d_state)
    start = draw_start(2, 37)
    assert_close(compiled(operands, start), oracle(operands, start), dtype.name)


def test_more_tokens_than_a_chunk_and_a_chunk_for_all():
    operands = draw(jnp.float32, 37)
    want = oracle(operands, None)
    for size in (1, 16, 100):
        run = everything(functools.partial(native, chunk_size=size))
        assert_close(run(operands, None), want, "float32", f"chunks of {size}: ")


@pytest.mark.parametrize("width", [100, 300])
def test_threads_do_not_change_a_bit(width):
    operands = draw(jnp.float32, 300, width=width, d_state=4, batch=3)
    first = compiled(operands, None)
    by_loops = everything(functools.partial(selective_scan, implementation="sequential"))
    assert_close(first, by_loops(operands, None), "float32")
    for _ in range(5):
        again = compiled(operands, None)
        assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))


def test_what_decays_beyond_all_numbers_is_zero(dtype):
    x, dt, A, B, C, state = draw(dtype, 21)
    strong = jnp.full_like(A, -0.5 * jnp.finfo(dtype).max)
    (y, last), gradients = compiled((x, 10 + dt, strong, B, C, state), None)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves((y, last, gradients)))
    assert_close(last, ((10 + dt) * x)[:, -1, :, None] * B[:, -1, None], dtype.name)


def test_what_is_not_a_number_stays_visible():
    x, dt, A, B, C, state = draw(jnp.float32, 21)
    _, last = native(x, dt, A.at[1, 0].set(jnp.nan), B, C, state)
    there = np.zeros(last.shape, bool)
    there[:, 1, 0] = True
    assert np.array_equal(np.isnan(last), there)


def test_a_mapped_scan_is_the_scan_of_each():
    operands = draw(jnp.float32, 9, batch=6)
    x, dt, A, B, C, state = operands
    parts = [v.reshape(3, 2, *v.shape[1:]) for v in (x, dt, B, C, state)]

    def one(x, dt, B, C, state):
        return native(x, dt, A, B, C, state)

    got = jax.jit(jax.vmap(one))(*parts)
    want = native(*operands)
    assert_close(jax.tree.map(lambda v: v.reshape(6, *v.shape[2:]), got), want, "float32")
