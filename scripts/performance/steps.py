"""Parts of a B'MOJO layer: their names, and steps that can be run in different ways.

Every step of a layer is handed to a function ``run``, which may simply call it, inside a larger
program, or compile and time it by itself. Steps of one part are summed up under its name.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx

NORMS = "norms and residual sums"
ATTENTION = "projections of attention"
MEMORY = "memory attention"
SELECTION = "innovation and selection"
CELL = "fading cell: projections"
CONVOLUTION = "fading cell: convolution"
SCAN = "fading cell: scan"
GATES = "fading cell: gates and steps"
MLP_PART = "MLP"
PARTS = (NORMS, CELL, CONVOLUTION, SCAN, GATES, ATTENTION, SELECTION, MEMORY, MLP_PART)

SILU, SOFTPLUS = 4, 3
"""Operations of a silu and of a softplus: an exponential, a logarithm, a quotient count one."""
NORM = 4
"""Operations of an RMS norm for each number."""

Run = Callable[..., Any]
"""run(part, flops, function, modules, *arrays) -> function(modules, *arrays)."""


def call(part: str, flops: float, function: Callable[..., Any], modules: Any, *arrays: Any) -> Any:
    """The ``run`` that does nothing but the step."""
    del part, flops
    return function(modules, *arrays)


def linear(*linears: nnx.Linear, tokens: int) -> float:
    """Operations of some projections."""
    return 2.0 * tokens * sum(linear.in_features * linear.out_features for linear in linears)
