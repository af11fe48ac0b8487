"""Attention whose scores are large, and exact: float32 has what float64 has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops.masks import Slots
from bmojo.ops.memory_attention import causal_attention, memory_attention
from tests.numerics import assert_close

LENGTH, WINDOW = 48, 16


def operands(size):
    """Queries and keys of whole numbers: scores are ``size`` and differences of some units."""
    rng = np.random.default_rng(0)
    q, k, held = (rng.integers(-2, 3, (1, n, 2, 16)).astype(float) for n in (LENGTH, LENGTH, 9))
    q[..., 0], k[..., 0], held[..., 0] = size, 4, 4
    v, held_v = (rng.normal(size=x.shape).astype(np.float32) for x in (k, held))
    return q, k, v, held.reshape(1, 3, 3, 2, 16), held_v.reshape(1, 3, 3, 2, 16)


def memory(name, q, k, v, *held):
    slots = Slots(*held, jnp.full((1, 3, 1, 3), 2))
    tail = jnp.zeros((1, WINDOW - 1, 2, 16), q.dtype)
    position = jnp.arange(LENGTH)[None]
    options = {"window": WINDOW, "slots": slots, "implementation": name}
    return memory_attention(q, k, v, tail, tail, position, **options)


def whole(name, q, k, v, *held):
    return causal_attention(q, k, v, jnp.arange(LENGTH)[None], None, name)


@pytest.mark.parametrize("size", [1e4, 1e6])
@pytest.mark.parametrize(
    "function, name",
    [(memory, "xla"), (memory, "native"), (memory, "pallas"), (whole, "xla"), (whole, "native")],
)
@pytest.mark.one_in(5)
def test_outputs_and_gradients_do_not_lose_small_differences(function, name, size):
    def everything(name, dtype):
        arrays = [jnp.asarray(x, dtype) for x in operands(size)]

        def loss(*arrays):
            out = function(name, *arrays)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

        return jax.jit(jax.grad(loss, range(5), has_aux=True))(*arrays)

    got = everything(name, "float32")
    with jax.enable_x64(True):
        assert_close(got, everything("xla", "float64"), "float32")
