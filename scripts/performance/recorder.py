"""Compiled steps of a layer, forward and with their gradients, as benchmark cases."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from bmojo.benchmark.cases import Case, Program, compiled
from bmojo.benchmark.operations import FORWARD, GRADIENT
from scripts.performance.gradient import with_gradient

KINDS = (FORWARD, GRADIENT)


@dataclasses.dataclass(frozen=True)
class Step:
    """Forward operations of a step, and by kind its program, arguments, and bytes of both ends."""

    flops: float
    programs: dict[str, tuple[Program, tuple[Any, ...], int]]


class Recorder:
    """The ``run`` of :func:`scripts.performance.layer.layer` that keeps compiled steps by part."""

    def __init__(self) -> None:
        self.steps: dict[str, list[Step]] = {}

    def __call__(
        self, part: str, flops: float, function: Callable[..., Any], modules: Any, *arrays: Any
    ) -> Any:
        """Compile a step, keep it, and return what it computes."""
        graph, state = nnx.split(modules)

        def forward(state: Any, arrays: Any) -> Any:
            return function(nnx.merge(graph, state), *arrays)

        return self.keep(part, flops, forward, (state, arrays))

    def keep(self, part: str, flops: float, function: Callable[..., Any], operands: Any) -> Any:
        """Compile a function of arrays, forward and with its gradient, and keep both."""
        out, first = _program(function, operands)
        second = _program(*with_gradient(function, operands, out))[1]
        programs = {FORWARD: first, GRADIENT: second}
        self.steps.setdefault(part, []).append(Step(flops, programs))
        return out


def _program(function: Callable[..., Any], operands: Any) -> tuple[Any, Any]:
    program = compiled(function, *operands)
    out = program.call(*operands)
    return out, (program, operands, bytes_of(operands, out))


def cases_of(parts: dict[str, list[Step]], title: str) -> list[Case]:
    """All parts, forward, then all with gradients."""
    return [_case(part, kind, title, parts[part]) for kind in KINDS for part in parts]


def _case(part: str, kind: str, title: str, steps: Sequence[Step]) -> Case:
    calls = [step.programs[kind] for step in steps]

    def run() -> None:
        jax.block_until_ready([program.call(*arguments) for program, arguments, _ in calls])

    flops = sum(step.flops for step in steps) * (3 if kind == GRADIENT else 1)
    held = max(program.facts["temporary_bytes"] or 0 for program, *_ in calls)
    facts = {"bytes": sum(moved for *_, moved in calls)}
    group = f"{title}, {kind}"
    return Case(part, group, run, flops=flops or None, temporary_bytes=held, facts=facts)


def bytes_of(*trees: Any) -> int:
    """Bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
