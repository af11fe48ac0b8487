"""Single operations: checked at an odd size and at the measured one, then made into cases."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark.cases import Case, Check, difference, limit
from bmojo.benchmark.families import Family, Sizes, families
from bmojo.benchmark.program import Program, compiled
from bmojo.types import Array

__all__ = ["FORWARD", "GRADIENT", "check_operations", "operation_cases"]

FORWARD, GRADIENT = "forward", "forward and gradient"
ODD = Sizes(2, 37, 6, 3, 2, 8, 7, 2, 3)
"""Where every implementation is compared with the oracle."""

Tell = Callable[[str], None]


def check_operations(
    only: Sequence[str] = (), seed: int = 0, tell: Tell = lambda text: None
) -> list[Check]:
    """Outputs of every implementation against the oracle, and gradients, at an odd size."""
    checks = []
    for family in families(ODD, only, seed):
        tell(f"checking {family.name}")
        right = _arrays(family.oracle(*family.operands))
        slopes = None
        if family.gradient is not None:
            slopes = _look(family.gradient, family)[1]
        for name, function in {**family.ours, **family.plain}.items():
            case = f"{family.name}: {name}"
            found, gradients = _look(function, family)
            checks.append(_check(case, f"output and oracle's, {ODD.length} tokens", found, right))
            if slopes is not None:
                what = f"gradient and derivative of the plain form, {ODD.length} tokens"
                checks.append(_check(case, what, gradients, slopes))
    return checks


def _look(function: Callable[..., Any], family: Family) -> tuple[Any, Any]:
    """Outputs, and gradients where the operation has any."""
    if family.gradient is None:
        return _arrays(jax.jit(function)(*family.operands)), ()
    (_, found), gradients = jax.jit(_gradient(function, family.operands))(*family.operands)
    return found, gradients


def operation_cases(
    sizes: Sizes, only: Sequence[str] = (), seed: int = 0, tell: Tell = lambda text: None
) -> tuple[list[Case], list[Check], list[str]]:
    """Compile everything at the measured size.

    Returns:
      The cases; checks that all forms of one operation agree at this size; and which of the
      forms that are not ours were left out because they do not run on this backend.
    """
    cases: list[Case] = []
    checks: list[Check] = []
    notes: list[str] = []
    for family in families(sizes, only, seed):
        kinds = (FORWARD,) if family.gradient is None else (FORWARD, GRADIENT)
        for kind in kinds:
            found: dict[str, Any] = {}
            for name, function in {**family.plain, **family.ours}.items():
                tell(f"compiling {family.name}: {name}, {kind}")
                if kind == GRADIENT:
                    function = _gradient(function, family.operands)
                try:
                    program = compiled(function, *family.operands)
                    out = program.call(*family.operands)
                except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
                    if name in family.ours:
                        raise
                    reason = str(error).partition("\n")[0]
                    notes.append(f"{family.name}: {name}, {kind}, does not run here: {reason}")
                    continue
                found[name] = _arrays(out[1] if kind == GRADIENT else out)
                cases.append(_case(family, name, kind, program))
            checks += _agreement(family, kind, found, sizes.length)
    return cases, checks, notes


def _case(family: Family, name: str, kind: str, program: Program) -> Case:
    def run() -> None:
        jax.block_until_ready(program.call(*family.operands))

    case = Case(
        name,
        f"{family.name}, {kind}",
        run,
        baseline=family.baseline,
        flops=family.flops * (3 if kind == GRADIENT else 1),
        **program.facts(),
    )
    return dataclasses.replace(case, facts={"whose": "ours" if name in family.ours else "plain"})


def _agreement(family: Family, kind: str, found: dict[str, Any], length: int) -> list[Check]:
    """Each form against the baseline."""
    if family.baseline not in found:
        return []
    right = found[family.baseline]
    what = f"{kind} and {family.baseline}, {length} tokens"
    return [
        _check(f"{family.name}: {name}", what, arrays, right)
        for name, arrays in found.items()
        if name != family.baseline
    ]


def _check(case: str, what: str, found: Sequence[Any], right: Sequence[Any]) -> Check:
    """The largest difference of several arrays; NaN stays NaN."""
    parts = [difference(one, other) for one, other in zip(found, right, strict=True)]
    return Check(case, what, float(np.max(parts)), limit("float32"))


def _gradient(function: Callable[..., Any], operands: tuple[Array, ...]) -> Callable[..., Any]:
    """The function to ((mixture, outputs), gradients) of a fixed mixture of its outputs."""

    def mixture(*operands: Array) -> tuple[Array, tuple[Array, ...]]:
        total = jnp.zeros(())
        found = _arrays(function(*operands))
        for value in found:
            weights = jnp.cos(1.7 * jnp.arange(value.size, dtype=value.dtype))
            total = total + jnp.sum(value * weights.reshape(value.shape))
        return total, found

    return jax.value_and_grad(mixture, tuple(range(len(operands))), has_aux=True)


def _arrays(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)
