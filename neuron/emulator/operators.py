"""The operators that instructions take: arithmetic, on bits, and activation functions.

Arithmetic is in float32. Activation functions are exact here; the hardware approximates them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray
F = np.float32


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One operator of ``nki.language``.

    Attributes:
      name: as in ``nl.<name>``.
      binary: the arithmetic of two float32 operands.
      unary: the arithmetic of one.
      bits: what it does to integers as bit patterns; ``invert`` takes one operand.
      activation: the function that ScalarE applies.
      valid: the inputs for which ScalarE's function is defined.
      identity: the neutral element, for operators that reduce.
      generation: the first that has it.
    """

    name: str
    binary: Callable[[Array, Array], Array] | None = None
    unary: Callable[[Array], Array] | None = None
    bits: Callable[..., Array] | None = None
    activation: Callable[[Array], Array] | None = None
    valid: tuple[float, float] | None = None
    identity: float | None = None
    generation: int = 2
    apply: ClassVar[Callable[..., Any]]
    """Makes a new tile by an operator; :mod:`neuron.emulator.language` has it."""

    def __call__(self, x: Any, y: Any = None, dtype: Any = None) -> Any:
        """The helper of the same name, which gives a new tile."""
        return Operator.apply(self, x, y, dtype)

    def __repr__(self) -> str:
        return f"nl.{self.name}"


def _truth(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: function(a, b).astype(F)


def _logical(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: function(a != 0, b != 0).astype(F)


def _by_magnitude(pick: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: np.where(pick(np.abs(a), np.abs(b)), a, b)


_erf_wide = np.vectorize(math.erf, otypes=[np.float64])


def _erf(x: Array) -> Array:
    return _erf_wide(x.astype(np.float64)).astype(F) if x.size else x


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(F)


def _softplus(x: Array) -> Array:
    return np.logaddexp(F(0), x)


def _gelu(x: Array) -> Array:
    return F(0.5) * x * (1 + _erf(x * F(math.sqrt(0.5))))


def _gelu_tanh(x: Array) -> Array:
    return F(0.5) * x * (1 + np.tanh(F(math.sqrt(2 / math.pi)) * (x + F(0.044715) * x**3)))


def _gelu_dx(x: Array) -> Array:
    density = np.exp(F(-0.5) * x * x) * F(1 / math.sqrt(2 * math.pi))
    return F(0.5) * (1 + _erf(x * F(math.sqrt(0.5)))) + x * density


def _silu_dx(x: Array) -> Array:
    s = _sigmoid(x)
    return s * (1 + x * (1 - s))


OPERATORS = (
    # Arithmetic, two operands.
    Operator("add", binary=np.add, identity=0.0),
    Operator("subtract", binary=np.subtract, identity=0.0),
    Operator("multiply", binary=np.multiply, identity=1.0),
    Operator("maximum", binary=np.maximum, identity=-math.inf),
    Operator("minimum", binary=np.minimum, identity=math.inf),
    Operator("equal", binary=_truth(np.equal)),
    Operator("not_equal", binary=_truth(np.not_equal)),
    Operator("less", binary=_truth(np.less)),
    Operator("less_equal", binary=_truth(np.less_equal)),
    Operator("greater", binary=_truth(np.greater)),
    Operator("greater_equal", binary=_truth(np.greater_equal)),
    Operator("logical_and", binary=_logical(np.logical_and), identity=1.0),
    Operator("logical_or", binary=_logical(np.logical_or), identity=0.0),
    Operator("logical_xor", binary=_logical(np.logical_xor), identity=0.0),
    Operator("power", binary=np.power),
    Operator("abs_max", binary=_by_magnitude(np.greater), generation=4),
    Operator("abs_min", binary=_by_magnitude(np.less), generation=4),
    # On bit patterns.
    Operator("bitwise_and", bits=np.bitwise_and),
    Operator("bitwise_or", bits=np.bitwise_or),
    Operator("bitwise_xor", bits=np.bitwise_xor),
    Operator("invert", bits=np.invert),
    Operator("left_shift", bits=np.left_shift),
    Operator("right_shift", bits=np.right_shift),
    # One operand: arithmetic, activation, or both.
    Operator("abs", unary=np.abs, activation=np.abs),
    Operator("square", unary=np.square, activation=np.square),
    Operator("relu", unary=lambda x: np.maximum(x, 0), activation=lambda x: np.maximum(x, 0)),
    Operator(
        "rsqrt",
        unary=lambda x: 1 / np.sqrt(x),
        activation=lambda x: 1 / np.sqrt(x),
        valid=(2.0**-87, 2.0**97),
    ),
    Operator("reciprocal", unary=lambda x: 1 / x, activation=lambda x: 1 / x),
    Operator("copy", activation=lambda x: x),
    Operator("sigmoid", activation=_sigmoid),
    Operator("gelu", activation=_gelu),
    Operator("gelu_apprx_tanh", activation=_gelu_tanh),
    Operator("gelu_apprx_sigmoid", activation=lambda x: x * _sigmoid(F(1.702) * x)),
    Operator("gelu_dx", activation=_gelu_dx),
    Operator("silu", activation=lambda x: x * _sigmoid(x)),
    Operator("silu_dx", activation=_silu_dx),
    Operator("tanh", activation=np.tanh),
    Operator("softplus", activation=_softplus),
    Operator("mish", activation=lambda x: x * np.tanh(_softplus(x))),
    Operator("erf", activation=_erf),
    Operator("exp", activation=np.exp),
    Operator("log", activation=np.log, valid=(2.0**-64, 2.0**64)),
    Operator("sqrt", activation=np.sqrt, valid=(2.0**-116, 2.0**118)),
    Operator("sin", activation=np.sin, valid=(-math.pi, math.pi)),
    Operator("arctan", activation=np.arctan),
    Operator("sign", activation=np.sign),
)

BY_NAME = {operator.name: operator for operator in OPERATORS}

COMPARISONS = ("equal", "less", "less_equal", "greater", "greater_equal")
REDUCTIONS = ("add", "subtract", "multiply", "maximum", "minimum") + (
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
)
SMALLEST_RECIPROCAL, LARGEST_RECIPROCAL = 2.0**-42, 2.0**42
"""Magnitudes of the inputs for which ScalarE's reciprocal is defined."""


def out_of_range(operator: Operator, x: Array) -> Array:
    """Inputs for which an activation function is not defined on the hardware."""
    if operator.name == "reciprocal":
        size = np.abs(x)
        return (size < SMALLEST_RECIPROCAL) | (size > LARGEST_RECIPROCAL)
    if operator.valid is None:
        return np.zeros(x.shape, bool)
    low, high = operator.valid
    return (x < F(low)) | (x > F(high))
