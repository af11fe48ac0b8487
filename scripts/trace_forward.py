"""Size of one forward pass: files, functions, lines and changes of file that it runs.

    python scripts/trace_forward.py            # the layer with its defaults, the cell apart
    python scripts/trace_forward.py --list     # every function too, in the order of first entry

One call of the layer without jit, after one that warms every cache. Only code of the package
``bmojo`` counts: functions that are entered, lines that are executed, and changes of file from one
executed line to the next, so that a call into another file and its return are two. Comprehensions,
generator expressions and lambdas are left out. The cell is all code below its call.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax.numpy as jnp
from flax import nnx

import bmojo
from bmojo.layers.bmojo import BMojoConfig

PACKAGE = str(Path(bmojo.__file__).parent) + "/"
LENGTH, WIDTH = 128, 64


class Trace:
    """The lines of a call, in order: (code, line number, whether below the cell's call)."""

    def __init__(self, cell: Any) -> None:
        self.steps: list[tuple[CodeType, int, bool]] = []
        self._cell, self._inside = cell, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        """Trace a frame's lines if they count."""
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_name.startswith("<"):
            return None
        is_cell = frame.f_locals.get("self") is self._cell
        self._inside += is_cell

        def local(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                self.steps.append((code, frame.f_lineno, self._inside > 0))
            elif event == "return":
                self._inside -= is_cell
            return local

        return local

    def part(self, *inside: bool) -> list[tuple[CodeType, int]]:
        """Steps outside the cell (False), inside it (True), or both."""
        return [(code, line) for code, line, where in self.steps if where in inside]


def figures(steps: list[tuple[CodeType, int]]) -> tuple[int, int, int, int]:
    """Files, functions, lines and changes of file."""
    files = [code.co_filename for code, _ in steps]
    changes = sum(a != b for a, b in zip(files, files[1:], strict=False))
    lines = {(code.co_filename, line) for code, line in steps}
    functions = {(code.co_filename, code.co_qualname) for code, _ in steps}
    return len(set(files)), len(functions), len(lines), changes


def trace(length: int = LENGTH) -> Trace:
    """One warm call of the layer with its defaults, attention and cell by XLA."""
    config = BMojoConfig(attention_implementation="xla")
    cell = dataclasses.replace(config.fading, implementation="sequential")  # type: ignore[type-var]
    layer = dataclasses.replace(config, fading=cell).make(
        WIDTH, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32
    )
    u = nnx.Rngs(1).normal((1, length, WIDTH))
    layer(u)
    found = Trace(layer.fading)
    sys.settrace(found)
    try:
        layer(u)
    finally:
        sys.settrace(None)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list functions and their files")
    listed = parser.parse_args().list
    found = trace()
    print(f"{'':10}{'files':>8}{'functions':>11}{'lines':>8}{'changes of file':>17}")
    for name, inside in (("layer", (False,)), ("cell", (True,)), ("together", (False, True))):
        files, functions, lines, changes = figures(found.part(*inside))
        print(f"{name:10}{files:8}{functions:11}{lines:8}{changes:17}")
    for code in dict.fromkeys(code for code, _, _ in found.steps) if listed else ():
        print(f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_firstlineno} {code.co_qualname}")


if __name__ == "__main__":
    main()
