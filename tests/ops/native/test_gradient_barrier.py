"""A kernel that does nothing, between what XLA would join."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.layers.heads import gradient_barrier
from bmojo.ops.axes import axis_rules
from bmojo.ops.native import library

pytestmark = pytest.mark.skipif(
    library.why_not() is not None, reason=f"no kernels: {library.why_not()}"
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_it_gives_back_what_it_gets(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.arange(12, dtype=dtype).reshape(3, 4)
        for run in (library.copy, jax.jit(library.copy), jax.vmap(library.copy)):
            assert np.array_equal(run(x), x) and run(x).dtype == dtype
        assert library.copy(x[:0]).shape == (0, 4)


def gradient(x):
    return jax.grad(lambda x: jnp.sum(gradient_barrier((x,))[0] ** 2) + jnp.sum(x))(x)


def test_gradients_pass_through_it_unless_arrays_are_cut():
    x = jnp.arange(6.0).reshape(2, 3)
    assert np.array_equal(gradient(x), 2 * x + 1)
    assert "bmojo_settle" in jax.jit(gradient).lower(x).as_text()
    with axis_rules({"batch": ("data",)}):
        assert "bmojo_settle" not in jax.jit(lambda x: gradient(x)).lower(x).as_text()
