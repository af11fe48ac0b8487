"""Running realizations: by an associative scan, by their impulse response, as predictors."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Inexact

from bmojo.realization.canonical import StateSpace
from bmojo.types import Array

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.jit
def simulate(
    system: StateSpace,
    inputs: Inexact[Array, "L i"],
    state: Inexact[Array, "n"] | None = None,
) -> tuple[Inexact[Array, "L o"], Inexact[Array, "L n"]]:
    """Outputs and states of a system, by an associative scan over the pairs (A_t, B_t u_t).

    The map x -> A x + b followed by x -> A' x + b' is x -> A'A x + (A'b + b'), which is
    associative: time L takes log L rounds of matrix products. Memory is O(L * states^2).
    L may be 0; ``state`` is that before the first token (None: zero). Returned are the outputs and
    the states after every token.
    """
    length = inputs.shape[0]
    dtype = jnp.result_type(inputs, *jax.tree.leaves(system))
    if system.A.ndim == 2:
        system = jax.tree.map(lambda m: jnp.broadcast_to(m, (length, *m.shape)), system)
    update = jnp.einsum("tni,ti->tn", system.B, inputs, precision=_HIGHEST).astype(dtype)
    transition = system.A.astype(dtype)
    if length == 0:
        return jnp.zeros((0, system.C.shape[1]), dtype), update
    if state is not None:
        update = update.at[0].add(jnp.matmul(transition[0], state, precision=_HIGHEST))

    def compose(earlier, later):
        (A, b), (A_next, b_next) = earlier, later
        product = jnp.matmul(A_next, A, precision=_HIGHEST)
        return product, jnp.einsum("tnm,tm->tn", A_next, b, precision=_HIGHEST) + b_next

    _, states = jax.lax.associative_scan(compose, (transition, update))
    outputs = jnp.einsum("ton,tn->to", system.C, states, precision=_HIGHEST)
    return outputs + jnp.einsum("toi,ti->to", system.D, inputs, precision=_HIGHEST), states


@functools.partial(jax.jit, static_argnames="length")
def markov_parameters(system: StateSpace, length: int) -> Inexact[Array, "K o i"]:
    """C A^k B for k = 0..length-1: what the state contributes k tokens after an input."""

    def step(reached, _):
        return system.A @ reached, system.C @ reached

    return jax.lax.scan(step, system.B.astype(system.A.dtype), length=length)[1]


def impulse_response(system: StateSpace, length: int) -> Inexact[Array, "K o i"]:
    """The output k tokens after a unit input: the Markov parameters, with D added at k = 0."""
    return markov_parameters(system, length).at[0].add(system.D)


@jax.jit
def innovation(
    A: Inexact[Array, "n n"],
    C: Inexact[Array, "o n"],
    K: Inexact[Array, "n o"],
    observed: Inexact[Array, "L o"],
    state: Inexact[Array, "n"] | None = None,
) -> Inexact[Array, "L o"]:
    """What a predictor did not predict: e_t = y_t - C x_{t-1}, with x_t = A x_{t-1} + K e_t.

    With the Kalman gain K these are the innovations, white and as small as can be. For the
    autoregression of :func:`bmojo.realization.companion`, x is its state, C its last row and
    K the last unit vector; the fixed predictor of :mod:`bmojo.ops.innovation` is the one whose
    coefficients are its weights.
    ``state`` is that before the first observation (None: zero).
    """
    closed = A - jnp.matmul(K, C, precision=_HIGHEST)
    nothing = jnp.zeros((C.shape[0], K.shape[1]), closed.dtype)
    before = jnp.zeros(A.shape[0], closed.dtype) if state is None else state
    _, states = simulate(StateSpace(closed, K, C, nothing), observed, state)
    past = jnp.concatenate([before[None], states])[:-1]
    return observed - jnp.matmul(past, C.T, precision=_HIGHEST)
