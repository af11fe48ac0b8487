"""What the tests of scans share: cases, decays, document starts, and all that is compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

CHUNK = 4
NAMES = ("x", "dt", "A", "B", "C", "state")
DECAYS = {"near 0": 40.0, "middle": 1.0, "near 1": 1e-4, "mixed": None}

every_case = pytest.mark.parametrize(
    "dtype, length, documents, batch",
    [
        ("float64", 1, True, 2),
        ("float64", CHUNK - 1, False, 2),
        ("float64", CHUNK, False, 1),
        ("float64", CHUNK + 1, False, 2),
        ("float64", 13, True, 2),
        ("float32", 1, False, 2),
        ("float32", 13, True, 1),
        ("float32", 13, False, 2),
    ],
)


def draw_steps(rng, shape, decay):
    """Steps whose log-decays are around ``DECAYS[decay]``; "mixed": from 1e-4 to 50."""
    dt = rng.uniform(0.5, 1.5, size=shape)
    if DECAYS[decay] is None:
        return np.exp(rng.uniform(np.log(1e-4), np.log(50), size=shape))
    return dt * DECAYS[decay]


def draw_start(batch, length, seed=1):
    """Documents that start here and there; the first row's first token is one."""
    start = np.random.default_rng(seed).random((batch, length)) < 0.15
    start[0, 0] = True
    return jnp.asarray(start)


def everything(function):
    """Compiled: outputs, final state, and gradients of a random functional of both."""

    def loss(operands, start):
        y, state = function(*operands, start)
        total = sum(
            jnp.sum(v * jnp.cos(1.7 * jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape))
            for v in (y, state)
        )
        return total, (y, state)

    def run(operands, start):
        gradients, out = jax.grad(loss, has_aux=True)(operands, start)
        return out, dict(zip(NAMES, gradients, strict=True))

    return jax.jit(run)
