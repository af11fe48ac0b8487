"""Compiled functions, and what XLA says of them."""

import dataclasses
import time
from typing import Any

import jax

__all__ = ["Program", "compiled"]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function compiled for some arguments.

    Attributes:
      call: the compiled function.
      seconds: time to trace and compile it.
      temporary_bytes: memory beside arguments and results; None if XLA does not tell.
      flops: as XLA counts them, the body of a loop once; None if it does not tell.
    """

    call: Any
    seconds: float
    temporary_bytes: int | None
    flops: float | None

    def facts(self) -> dict[str, Any]:
        """As arguments of :class:`bmojo.benchmark.cases.Case`."""
        return {
            "compile_seconds": self.seconds,
            "temporary_bytes": self.temporary_bytes,
            "xla_flops": self.flops,
        }


def compiled(function: Any, *arguments: Any) -> Program:
    """Compile a function, or what ``jax.jit`` made of one, for arguments or their shapes."""
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    began = time.perf_counter()
    call = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - began
    memory, cost = call.memory_analysis(), call.cost_analysis() or {}
    if isinstance(cost, list):
        cost = cost[0] if cost else {}
    flops = cost.get("flops")
    return Program(
        call,
        seconds,
        None if memory is None else int(memory.temp_size_in_bytes),
        None if flops is None or flops <= 0 else float(flops),
    )
