"""How many states a map needs, and realizations with no more than that.

Ranks are numerical: singular values below a relative tolerance count as zero. Use float64,
and small orders; the powers of A in these matrices lose digits quickly.
"""

import jax.numpy as jnp
from jaxtyping import Inexact

from bmojo.realization.canonical import StateSpace
from bmojo.realization.simulation import markov_parameters
from bmojo.types import Array


def controllability(system: StateSpace) -> Inexact[Array, "n K"]:
    """(B, AB, ..., A^{n-1} B): the states that inputs can reach are its range."""
    blocks = [system.B]
    for _ in range(system.order - 1):
        blocks.append(system.A @ blocks[-1])
    return jnp.concatenate(blocks, axis=1)


def observability(system: StateSpace) -> Inexact[Array, "K n"]:
    """(C; CA; ...; CA^{n-1}): the states that no output shows are its null space."""
    blocks = [system.C]
    for _ in range(system.order - 1):
        blocks.append(blocks[-1] @ system.A)
    return jnp.concatenate(blocks)


def is_minimal(system: StateSpace, tolerance: float | None = None) -> bool:
    """Whether every state can be reached and seen: no system with fewer has the same map.

    D counts as given: a system with singular A could move one step of its memory into D and save a
    state. ``tolerance`` is the relative size of singular values that count as zero (None: rounding
    errors).
    """
    reached = _rank(controllability(system), tolerance)
    return reached == system.order == _rank(observability(system), tolerance)


def hankel(markov: Inexact[Array, "K o i"]) -> Inexact[Array, "rows columns"]:
    """The block matrix with the Markov parameter j + k in block (j, k).

    K parameters fill (K + 1) // 2 block rows and K // 2 + 1 block columns, each of them used.
    The matrix maps past inputs to future outputs; it is observability times controllability,
    and its rank is the minimal order if K is at least twice that.
    """
    rows, columns = (markov.shape[0] + 1) // 2, markov.shape[0] // 2 + 1
    index = jnp.arange(rows)[:, None] + jnp.arange(columns)
    blocks = markov[index]
    return blocks.transpose(0, 2, 1, 3).reshape(rows * markov.shape[1], columns * markov.shape[2])


def minimal_order(markov: Inexact[Array, "K o i"], tolerance: float | None = None) -> int:
    """States that a map needs: the rank of the Hankel matrix of its Markov parameters."""
    return _rank(hankel(markov), tolerance)


def realize(
    markov: Inexact[Array, "K o i"], order: int, feedthrough: Inexact[Array, "o i"] | None = None
) -> StateSpace:
    """A system with these Markov parameters C A^k B, after Ho and Kalman.

    A singular value decomposition of the Hankel matrix splits it into observability times
    controllability, balanced; A is what shifts the first by one block.

    Args:
      markov: C A^k B for k = 0..K-1; exact if the map has order ``order`` and K >= 2 order.
        More states than ``order`` are truncated.
      order: states of the result.
      feedthrough: D. None: zero.

    Raises:
      ValueError: if there are fewer than 2 ``order`` parameters.
    """
    length, outputs, inputs = markov.shape
    if length < 2 * order:
        raise ValueError(f"markov: order {order} needs {2 * order} parameters, got {length}")
    # One parameter is left for the shifted matrix.
    left, values, right = jnp.linalg.svd(hankel(markov[:-1]), full_matrices=False)
    root = jnp.sqrt(values[:order])
    left, right = left[:, :order], right[:order]
    shifted = hankel(markov[1:])
    return StateSpace(
        A=(left.conj().T / root[:, None]) @ shifted @ (right.conj().T / root),
        B=root[:, None] * right[:, :inputs],
        C=left[:outputs] * root,
        D=jnp.zeros((outputs, inputs), markov.dtype) if feedthrough is None else feedthrough,
    )


def reduce(system: StateSpace, tolerance: float | None = None) -> StateSpace:
    """A minimal system with the same input-output map."""
    markov = markov_parameters(system, 2 * system.order + 1)
    return realize(markov, minimal_order(markov, tolerance), system.D)


def _rank(matrix: Inexact[Array, "rows columns"], tolerance: float | None) -> int:
    return int(jnp.linalg.matrix_rank(matrix, rtol=tolerance))
