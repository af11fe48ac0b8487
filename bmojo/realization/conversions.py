"""Between diagonal and companion form, for one input and one output."""

import jax.numpy as jnp
from jaxtyping import Inexact

from bmojo.ops.companion import expand_polynomial
from bmojo.realization.canonical import StateSpace, from_poles, similar
from bmojo.types import Array


def diagonal(
    poles: Inexact[Array, "n"],
    b: Inexact[Array, "n"],
    c: Inexact[Array, "n"],
    feedthrough: Inexact[Array, ""] | None = None,
) -> StateSpace:
    """The diagonal system with these poles: y_t = sum_i c_i sum_k p_i^k b_i u_{t-k} + d u_t."""
    d = jnp.zeros(()) if feedthrough is None else feedthrough
    return StateSpace(A=jnp.diag(poles), B=b[:, None], C=c[None], D=jnp.reshape(d, (1, 1)))


def diagonal_to_companion(system: StateSpace) -> StateSpace:
    """The companion form with the input-output map of a diagonal system.

    The sum of partial fractions c_i b_i / (1 - p_i q) over a common denominator gives the
    characteristic polynomial of the poles below, and the read-out
    sum_i c_i b_i prod_{j != i} (1 - p_j q) above. Poles may coincide, and may be complex if
    they and their residues c_i b_i come in conjugate pairs; the companion form is real.

    Raises:
      ValueError: if the system has several inputs or outputs, or complex poles lack their
        conjugates.
    """
    _check_single(system)
    poles = jnp.diagonal(system.A)
    residues = system.C[0] * system.B[:, 0]
    one = jnp.ones((1,), poles.dtype)
    numerator = jnp.zeros((system.order,), residues.dtype)
    for i in range(system.order):
        others = [jnp.stack([one[0], -p]) for j, p in enumerate(poles) if j != i]
        numerator = numerator + residues[i] * expand_polynomial(one, *others)
    numerator = numerator.real if jnp.iscomplexobj(numerator) else numerator
    return from_poles(poles, numerator, jnp.real(system.D[0, 0]))


def companion_to_diagonal(system: StateSpace) -> StateSpace:
    """The diagonal form of a companion form with distinct poles.

    The eigenvector of a pole p is (1, p, ..., p^{R-1}), so that the Vandermonde matrix V of the
    poles is a similarity: A = V diag(p) V^{-1}. It is singular where poles coincide and badly
    conditioned where they are close. Complex throughout; runs on the CPU (general eigenvalues).

    Raises:
      ValueError: if the system has several inputs or outputs.
    """
    _check_single(system)
    poles = jnp.linalg.eigvals(system.A)
    vandermonde = jnp.vander(poles, system.order, increasing=True).T
    moved = similar(system, jnp.linalg.inv(vandermonde))
    # The similarity makes A diagonal up to rounding; the poles themselves are exact.
    return StateSpace(A=jnp.diag(poles), B=moved.B, C=moved.C, D=moved.D)


def _check_single(system: StateSpace) -> None:
    if system.B.shape[1] != 1 or system.C.shape[0] != 1:
        raise ValueError(
            f"system: {system.B.shape[1]} inputs and {system.C.shape[0]} outputs; "
            "conversions are for one of each"
        )
