"""Realizations: the theory behind the layers, as code on small dense systems.

A realization of an input-output map is a state x_t and a recursion ::

    x_t = A_t x_{t-1} + B_t u_t,    y_t = C_t x_t + D_t u_t,

in which the state is all that the future needs of the past. What it could not predict of the
next token is the innovation. Memories differ only in their transition:

- nilpotent A (`shift`): a shift register. It holds the last W tokens exactly, then nothing.
  Read out by softmax attention it is a sliding window (`sliding_window_attention`).
- diagonal A, real and input-dependent: Mamba (`selective_ssm`). It fades and never ends, it
  is never exact, and alone it cannot oscillate.
- companion A (`companion`): the controllable canonical form, a shift register whose newest
  entry is an autoregression on the others. With a last row of zeros it is the window; with
  the characteristic polynomial of a diagonal system (`diagonal_to_companion`,
  `companion_to_diagonal`) it is that system, complex poles included.

The same map has many realizations (`similar`); a minimal one has as many states as the Hankel
matrix of its Markov parameters C A^k B has rank (`minimal_order`), and can be found from those
parameters alone (`realize`). Anything is run by one associative scan (`simulate`).
Derivations: docs/math/realization.md. For layers see `bmojo.layers.canonical`.
"""

from bmojo.realization.canonical import (
    StateSpace,
    characteristic_polynomial,
    companion,
    from_poles,
    shift,
    similar,
)
from bmojo.realization.conversions import companion_to_diagonal, diagonal, diagonal_to_companion
from bmojo.realization.minimality import (
    controllability,
    hankel,
    is_minimal,
    minimal_order,
    observability,
    realize,
    reduce,
)
from bmojo.realization.simulation import impulse_response, innovation, markov_parameters, simulate
from bmojo.realization.special_cases import selective_ssm, shift_register, sliding_window_attention

__all__ = [
    "StateSpace", "characteristic_polynomial", "companion", "companion_to_diagonal",
    "controllability", "diagonal", "diagonal_to_companion", "from_poles", "hankel",
    "impulse_response", "innovation", "is_minimal", "markov_parameters", "minimal_order",
    "observability", "realize", "reduce", "selective_ssm", "shift", "shift_register", "similar",
    "simulate", "sliding_window_attention",
]  # fmt: skip
