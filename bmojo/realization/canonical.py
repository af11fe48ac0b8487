"""State-space systems and their controllable canonical form."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Inexact

from bmojo.ops.companion import expand_polynomial
from bmojo.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateSpace:
    """A system x_t = A x_{t-1} + B u_t, y_t = C x_t + D u_t.

    The state counts the present input, as in Mamba; a textbook's x_{t+1} = A x_t + B u_t is
    the same system one step earlier. One that varies over time has a time axis in front, with one
    (A_t, B_t, C_t, D_t) per token.

    Attributes:
      A: transition (states, states).
      B: input map (states, inputs).
      C: output map (outputs, states).
      D: feed-through (outputs, inputs).
    """

    A: Inexact[Array, "*L n n"]
    B: Inexact[Array, "*L n i"]
    C: Inexact[Array, "*L o n"]
    D: Inexact[Array, "*L o i"]

    @property
    def order(self) -> int:
        """Number of states."""
        return self.A.shape[-1]


def shift(order: int) -> Inexact[Array, "n n"]:
    """The nilpotent matrix with ones above the diagonal: its power ``order`` is zero."""
    return jnp.eye(order, k=1)


def companion(
    coefficients: Inexact[Array, "*L R"],
    readout: Inexact[Array, "*L R"] | None = None,
    feedthrough: Inexact[Array, "*L"] | None = None,
) -> StateSpace:
    """The controllable canonical form, of one input and one output.

    z_t = sum_i a_{t,i} z_{t-i} + u_t and y_t = sum_j c_{t,j} z_{t-j+1} + d_t u_t, with the
    state x_t = (z_{t-R+1}, ..., z_t): A is a shift whose last row is (a_R, ..., a_1), and B is
    the last unit vector. Time-invariant, its transfer function in the delay q is
    (c_1 + c_2 q + ... + c_R q^{R-1}) / (1 - a_1 q - ... - a_R q^R) + d.

    Args:
      coefficients: a, by lag; with a leading time axis the last row varies over time.
      readout: c, by lag. None: y_t = z_t.
      feedthrough: d. None: 0.

    Raises:
      ValueError: if ``coefficients`` have more than two axes.
    """
    if coefficients.ndim not in (1, 2):
        raise ValueError(f"coefficients: shape {coefficients.shape}; give (R,) or (L, R)")
    *time, order = coefficients.shape
    dtype = coefficients.dtype
    newest = jnp.zeros((order,), dtype).at[-1].set(1)
    if readout is None:
        readout = jnp.broadcast_to(jnp.flip(newest), (*time, order))
    if feedthrough is None:
        feedthrough = jnp.zeros(time, dtype)
    rows = jnp.broadcast_to(shift(order).astype(dtype), (*time, order, order))
    return StateSpace(
        A=rows.at[..., -1, :].set(jnp.flip(coefficients, -1)),
        B=jnp.broadcast_to(newest[:, None], (*time, order, 1)),
        C=jnp.flip(readout, -1)[..., None, :],
        D=feedthrough[..., None, None],
    )


def characteristic_polynomial(poles: Inexact[Array, "R"]) -> Inexact[Array, "R"]:
    """Coefficients by lag, a_1..a_R, with 1 - a_1 q - ... - a_R q^R = prod_i (1 - p_i q).

    Args:
      poles: real, or complex in conjugate pairs.

    Returns:
      Real coefficients. Differentiable; under a transformation of JAX complex poles are taken
      for closed under conjugation without a check.

    Raises:
      ValueError: if complex poles lack their conjugates.
    """
    factors = [jnp.stack([jnp.ones_like(p), -p]) for p in poles]
    product = -expand_polynomial(*factors)[1:]
    if not jnp.iscomplexobj(product):
        return product
    if not isinstance(product, jax.core.Tracer):
        size = jnp.max(jnp.abs(product))
        if jnp.max(jnp.abs(product.imag)) > 1e3 * jnp.finfo(product.dtype).eps * size:
            raise ValueError(f"poles: {poles} lack conjugates; give complex poles in pairs")
    return product.real


def from_poles(
    poles: Inexact[Array, "R"],
    readout: Inexact[Array, "R"] | None = None,
    feedthrough: Inexact[Array, ""] | None = None,
) -> StateSpace:
    """The companion form with these poles; see :func:`companion` for the read-out."""
    return companion(characteristic_polynomial(poles), readout, feedthrough)


def similar(system: StateSpace, transform: Inexact[Array, "n n"]) -> StateSpace:
    """The same input-output map, with ``transform`` @ x in place of the state x."""
    back = jnp.linalg.inv(transform)
    A, B, C = transform @ system.A @ back, transform @ system.B, system.C @ back
    return StateSpace(A, B, C, system.D)
