"""What the source of a kernel may use to compile with every release from 0.3 to 0.7.

Read from the syntax tree, so that it finds what no run would. ``python -m
neuron.emulator.lint FILES`` prints the findings; a file is linted function by function, and
only functions that mention ``nl`` or ``nisa`` count as kernels.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

OLD_NAMES = {
    "mgrid": "index by slices",
    "arange": "index by slices, or use nisa.iota",
    "par_dim": "axis 0 is the partition axis",
    "affine_range": "is deprecated, use range",
    "sequential_range": "is deprecated, use range",
    "static_range": "is deprecated, use range",
    "dynamic_range": "is gone since 0.7, use range",
    "fori_loop": "exists since 0.6 only",
    "while_loop": "exists since 0.6 only",
    "divide": "does not exist on the hardware",
    "mod": "does not exist on the hardware",
    "topk": "exists since 0.6 only",
    "exponential": "exists on gen4 only",
    "abs_max": "exists on gen4 only",
    "abs_min": "exists on gen4 only",
    "simulate_kernel": "is of the old interface, use nki.simulate",
}
"""Names of ``nl``, ``nisa`` and ``nki`` that not every release has."""

NEW_VIEWS = (
    "permute",
    "broadcast",
    "expand_dim",
    "squeeze_dim",
    "flatten_dims",
    "reshape_dim",
    "rearrange",
    "select",
    "vector_select",
    "indirect",
    "is_contiguous",
    "get_pattern",
)
"""Methods of tensors since 0.5; before there are indexing, reshape, view and ap."""

MODULES = ("nl", "nisa", "nki")


class Finding(NamedTuple):
    """One thing that not every release compiles."""

    line: int
    problem: str


def check_function(function: Callable[..., Any]) -> list[Finding]:
    """Findings in a function, lines counted from its first."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.FunctionDef)
    return sorted(set(_function(definition)))


def check_source(source: str) -> list[Finding]:
    """Findings in the kernels of a file."""
    tree = ast.parse(source)
    findings: list[Finding] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            findings += _import(node)
        if isinstance(node, ast.FunctionDef) and _is_kernel(node):
            findings += _function(node)
    return sorted(set(findings))


def _is_kernel(function: ast.FunctionDef) -> bool:
    return any(isinstance(n, ast.Name) and n.id in ("nl", "nisa") for n in ast.walk(function))


def _import(node: ast.Import | ast.ImportFrom) -> Iterator[Finding]:
    names = [alias.name for alias in node.names]
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    if any(name.split(".")[0] == "neuronxcc" for name in names):
        yield Finding(node.lineno, "neuronxcc.nki no longer compiles; import nki")


def _function(function: ast.FunctionDef) -> Iterator[Finding]:
    yield from _signature(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Compare):
            if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
                yield Finding(node.lineno, "'is' is rejected before 0.7; write == or !=")
        elif isinstance(node, ast.While):
            yield Finding(node.lineno, "'while' on data does not compile; use range")
        elif isinstance(node, ast.Try | ast.With | ast.Lambda | ast.Global | ast.Nonlocal):
            kind = type(node).__name__.lower()
            if not (isinstance(node, ast.With) and _is_no_reorder(node)):
                yield Finding(node.lineno, f"'{kind}' is rejected before 0.7")
        elif isinstance(node, ast.FunctionDef) and node is not function:
            yield Finding(node.lineno, "a function inside a kernel is rejected before 0.7")
        elif isinstance(node, ast.Attribute):
            yield from _attribute(node)
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _is_no_reorder(node: ast.With) -> bool:
    return all("no_reorder" in ast.unparse(item.context_expr) for item in node.items)


def _signature(function: ast.FunctionDef) -> Iterator[Finding]:
    arguments = function.args
    if arguments.kwonlyargs:
        yield Finding(function.lineno, "'*' in the signature is rejected before 0.7")
    if arguments.vararg or arguments.kwarg:
        yield Finding(function.lineno, "*args and **kwargs can't be traced")
    for argument in (*arguments.args, *arguments.kwonlyargs):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        if annotation.split("[")[0] in ("list", "List"):
            yield Finding(argument.lineno, f"{argument.arg}: a kernel takes tuples, not lists")
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and "jit" in ast.unparse(decorator.func):
            yield Finding(decorator.lineno, "nki.jit takes no options; set the environment")


def _attribute(node: ast.Attribute) -> Iterator[Finding]:
    module = node.value.id if isinstance(node.value, ast.Name) else ""
    if module in MODULES and node.attr in OLD_NAMES:
        yield Finding(node.lineno, f"{module}.{node.attr}: {OLD_NAMES[node.attr]}")
    elif module not in (*MODULES, "np") and node.attr in NEW_VIEWS:
        yield Finding(
            node.lineno, f".{node.attr} exists since 0.5; use indexing, reshape, view or ap"
        )


def _call(node: ast.Call) -> Iterator[Finding]:
    for keyword in node.keywords:
        if keyword.arg == "mask":
            yield Finding(node.lineno, "mask= is of the old interface; slice with min()")
        if keyword.arg in ("buffer", "engine") and isinstance(keyword.value, ast.Constant):
            yield Finding(node.lineno, f"{keyword.arg}= takes a name of nl or nisa, no string")
    function = node.func
    if (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "nisa"
        and node.args
        and not function.attr.startswith("register_")
    ):
        yield Finding(
            node.lineno, f"nisa.{function.attr}: pass operands by keyword, their order changed"
        )


def main(files: Iterable[str]) -> int:
    """Print the findings of files; 1 if there are any."""
    found = 0
    for name in files:
        for finding in check_source(Path(name).read_text()):
            print(f"{name}:{finding.line}: {finding.problem}")
            found = 1
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
