"""Known sequence models as realizations: sliding-window attention and Mamba."""

import functools

import jax
import jax.numpy as jnp

from bmojo.realization.canonical import StateSpace, companion
from bmojo.realization.simulation import simulate
from bmojo.types import Array, Float


def shift_register(window: int, width: int) -> StateSpace:
    """The last ``window`` inputs of ``width`` numbers, the oldest first, as state and output.

    It is the companion form with a last row of zeros, hence a nilpotent transition, one copy
    per number.
    """
    scalar = companion(jnp.zeros((window,)))
    same = jnp.eye(width)
    A, B = jnp.kron(scalar.A, same), jnp.kron(scalar.B, same)
    return StateSpace(A, B, C=jnp.eye(window * width), D=jnp.zeros((window * width, width)))


@functools.partial(jax.jit, static_argnames="window")
def sliding_window_attention(
    queries: Float[Array, "L P"],
    keys: Float[Array, "L P"],
    values: Float[Array, "L V"],
    window: int,
) -> Float[Array, "L V"]:
    """softmax(q_t k^T / sqrt(P)) v over the last ``window`` tokens, by a shift register.

    The register carries keys, values, and a one that tells a filled place from an empty one:
    a linear nilpotent realization, whose read-out is not linear.
    """
    length, d_head = keys.shape
    taken = jnp.ones((length, 1), keys.dtype)
    tokens = jnp.concatenate([keys, values, taken], axis=1)
    register, _ = simulate(shift_register(window, tokens.shape[1]), tokens)
    register = register.reshape(length, window, tokens.shape[1])
    k, v, taken = jnp.split(register, [d_head, tokens.shape[1] - 1], axis=-1)
    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("lp,lwp->lw", queries, k, precision=highest) / jnp.sqrt(d_head)
    weights = jax.nn.softmax(jnp.where(taken[..., 0] > 0.5, scores, -jnp.inf), axis=-1)
    return jnp.einsum("lw,lwv->lv", weights, v, precision=highest)


def selective_ssm(
    dt: Float[Array, "L"],
    A: Float[Array, "N"],
    B: Float[Array, "L N"],
    C: Float[Array, "L N"],
    D: Float[Array, ""],
) -> StateSpace:
    """One channel of Mamba: transition diag(exp(dt_t A)), input map dt_t B_t, output map C_t."""
    decay = jnp.exp(dt[:, None] * A)
    return StateSpace(
        A=decay[:, :, None] * jnp.eye(A.shape[0]),
        B=(dt[:, None] * B)[:, :, None],
        C=C[:, None, :],
        D=jnp.broadcast_to(D, (dt.shape[0], 1, 1)),
    )
