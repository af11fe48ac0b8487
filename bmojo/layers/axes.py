"""Names for the axes of parameters and activations, so that a mesh can cut them.

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
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from bmojo.types import Array

Names = tuple[str | None, ...]
"""A name for each axis of an array; None: the axis is never cut."""

NAMES = ("batch", "length", "embed", "vocab", "lookup", "heads", "kv_heads", "inner", "mlp")

_rules: contextvars.ContextVar[Mapping[str, tuple[str, ...]] | None]
_rules = contextvars.ContextVar("axis_rules", default=None)


@contextlib.contextmanager
def axis_rules(rules: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    """Let models that are traced inside keep to a table: axis name -> axes of the mesh.

    ``jax.set_mesh`` must be in force too.
    """
    token = _rules.set(rules)
    try:
        yield
    finally:
        _rules.reset(token)


def partition(names: Names, rules: Mapping[str, tuple[str, ...]]) -> PartitionSpec:
    """Along which axes of the mesh an array with these axis names is cut."""
    return PartitionSpec(*(rules.get(name) or None if name else None for name in names))


def constrain(x: Array, *names: str | None) -> Array:
    """``x``, cut as the rules in force say for the names of its axes."""
    rules = _rules.get()
    if rules is None:
        return x
    return jax.lax.with_sharding_constraint(x, partition(names, rules))


def is_cut(name: str) -> bool:
    """Whether the rules in force cut axes of this name."""
    rules = _rules.get()
    return rules is not None and bool(rules.get(name))


def project(
    linear: nnx.Linear, u: Array, sizes: Sequence[int], names: Sequence[str | None]
) -> tuple[Array, ...]:
    """The outputs of a projection that makes several things at once.

    Args:
      linear: the projection, without bias.
      u: its input (B, L, D).
      sizes: channels of all outputs but the last.
      names: the axis name of each output's channels.

    Returns:
      The outputs (B, L, size). Where rules are in force each comes from its own part of the
      kernel: parts of one product would begin in the middle of a device's share.
    """
    edges = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    if _rules.get() is None:
        return tuple(jnp.split(linear(u), edges, axis=-1))
    kernel = linear.kernel[...].astype(linear.dtype)
    parts = zip(jnp.split(kernel, edges, axis=-1), names, strict=True)
    return tuple(
        constrain(u.astype(kernel.dtype) @ constrain(part, None, name), "batch", None, name)
        for part, name in parts
    )


def has_rules() -> bool:
    """Whether rules are in force, so that XLA may cut arrays."""
    return _rules.get() is not None


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
    rules = _rules.get()
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


def parameter_axes(model: nnx.Module) -> dict[str, Names]:
    """Axis names of the parameters of a model, by the parameters' names.

    A module tells them in an attribute ``axes`` of its class: for each of its parameters the
    path from the module, such as ``q_proj.kernel``, and the names. A further axis in front,
    that of stacked layers, is never cut. Parameters that no module tells of are not in the
    result.
    """
    found: dict[str, Names] = {}
    for path, module in nnx.iter_modules(model):
        for name, names in getattr(module, "axes", {}).items():
            value = module
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is None:
                continue
            missing = value.ndim - len(names)
            full = ".".join(map(str, (*path, name)))
            found[full] = (None,) * missing + tuple(names)
    return found
