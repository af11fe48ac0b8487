"""Logical axes: names for the axes of arrays, and rules for cutting them over a mesh.

Layers name axes by what they mean; a table of rules, which a mesh config holds, says along
which axes of the mesh each name is cut. Without a table in force everything here is the
identity, and a model is compiled as if this file did not exist.

========== ====================================================================
name       axis
========== ====================================================================
batch      rows
length     time
embed      the residual stream, in parameters
vocab      tokens of the vocabulary
lookup     channels of the embedding table while tokens are looked up in it
heads      query heads, and heads of an SSM
kv_heads   key-value heads
inner      channels inside an SSM
mlp        hidden channels of an MLP
========== ====================================================================
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from bmojo.types import Array

Names = tuple[str | None, ...]
"""A name for each axis of an array; None: the axis is never cut."""

NAMES = ("batch", "length", "embed", "vocab", "lookup", "heads", "kv_heads", "inner", "mlp")

RULES: contextvars.ContextVar[Mapping[str, tuple[str, ...]] | None]
RULES = contextvars.ContextVar("axis_rules", default=None)
"""The rules in force; None: arrays are not cut."""


@contextlib.contextmanager
def axis_rules(rules: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    """Let models that are traced inside keep to a table: axis name -> axes of the mesh.

    ``jax.set_mesh`` must be in force too.
    """
    token = RULES.set(rules)
    try:
        yield
    finally:
        RULES.reset(token)


def partition(names: Names, rules: Mapping[str, tuple[str, ...]]) -> PartitionSpec:
    """Along which axes of the mesh an array with these axis names is cut."""
    return PartitionSpec(*(rules.get(name) or None if name else None for name in names))


def constrain(x: Array, *names: str | None) -> Array:
    """``x``, cut as the rules in force say for the names of its axes."""
    rules = RULES.get()
    if rules is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition(names, rules))


def is_cut(name: str) -> bool:
    """Whether the rules in force cut axes of this name."""
    rules = RULES.get()
    return rules is not None and bool(rules.get(name))


def on_each_device(
    function: Callable[..., Any], arguments: Sequence[Names], results: Any
) -> Callable[..., Any]:
    """``function``, run by every device on its own part of the arguments.

    For functions that XLA cannot cut. They must treat the entries of the named axes apart:
    arrays that lack such an axis are whole on every device. A name whose axes of the mesh do
    not divide every array that has it is not cut. Without rules in force, and where all axes
    of the mesh are manual already, this is ``function`` itself.

    Args:
      function: of arrays.
      arguments: for each of them the names of its axes.
      results: a name for each axis of the result, or a tuple of such for several.
    """
    rules = RULES.get()
    if rules is None:
        return function

    def run(*arrays: Array) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        free = set(mesh.axis_names) - set(mesh.manual_axes)
        if not free:
            return function(*arrays)
        cut = {name: axes for name, axes in rules.items() if axes and free.issuperset(axes)}
        for x, names in zip(arrays, arguments, strict=True):
            for size, name in zip(x.shape, names, strict=True):
                if name in cut and size % math.prod(mesh.shape[axis] for axis in cut[name]):
                    del cut[name]
        several = isinstance(results[0], tuple)
        made = tuple(partition(r, cut) for r in results) if several else partition(results, cut)
        return jax.shard_map(
            function,
            in_specs=tuple(partition(names, cut) for names in arguments),
            out_specs=made,
            axis_names=free,
            check_vma=False,
        )(*arrays)

    return run
