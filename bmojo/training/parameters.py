"""A model as a function of a flat dict of named parameters.

Names are paths, such as ``blocks.sublayers.0.mixer.in_proj.kernel``; checkpoints go by them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.protocol import Group, parameter_groups
from bmojo.types import Array

Parameters = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Structure:
    """All of a model but its parameters' values: its graph, and how they hang on it."""

    graph: Any
    tree: Any
    groups: dict[str, Group] = dataclasses.field(hash=False)
    """By name of the parameter, in the order of the tree's leaves."""

    def merge(self, parameters: Parameters) -> Any:
        """The model with these parameters."""
        leaves = [parameters[name] for name in self.groups]
        return nnx.merge(self.graph, jax.tree.unflatten(self.tree, leaves))


def split(model: Any) -> tuple[Structure, Parameters]:
    """Take a model apart; ValueError if it holds variables that are not parameters."""
    graph, state = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    parameters = {_key(path).removesuffix(".value"): leaf for path, leaf in leaves}
    groups = parameter_groups(model)
    return Structure(graph, tree, {name: groups[name] for name in parameters}), parameters


def outline(make: Callable[[], Any]) -> tuple[Structure, Parameters]:
    """:func:`split` of the model that ``make`` would make, shapes in place of arrays."""
    return split(nnx.eval_shape(make))


def initialize(make: Callable[[], Any], shardings: Any = None) -> Parameters:
    """The parameters of a new model, drawn in one compiled program.

    ``shardings`` says where each is to lie, and each device draws its part; None: on the first.
    """
    return jax.jit(lambda: split(make())[1], out_shardings=shardings)()


def count(parameters: Parameters) -> int:
    """Numbers in all parameters together."""
    return sum(math.prod(value.shape) for value in parameters.values())


def flatten(tree: Any) -> dict[str, Array]:
    """The arrays of any tree by name, but for those that hold nothing."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_key(path): leaf for path, leaf in leaves if leaf.size}


def unflatten(template: Any, flat: dict[str, Array]) -> Any:
    """The inverse of :func:`flatten`; ``template`` gives structure, shapes, dtypes."""

    def pick(path: Any, leaf: Any) -> Array:
        return flat[_key(path)] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(pick, template)


def _key(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
