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
    """All of a model but its parameters' values.

    Attributes:
      graph: the model's graph definition.
      tree: how parameters hang on the graph.
      names: of the parameters, in the order of the tree's leaves.
      labels: the optimizer group of each, in the same order.
    """

    graph: Any
    tree: Any
    names: tuple[str, ...]
    labels: tuple[Group, ...]

    @property
    def groups(self) -> dict[str, Group]:
        """The optimizer group of each parameter, by name."""
        return dict(zip(self.names, self.labels, strict=True))

    def merge(self, parameters: Parameters) -> Any:
        """The model with these parameters."""
        leaves = [parameters[name] for name in self.names]
        return nnx.merge(self.graph, jax.tree.unflatten(self.tree, leaves))


def split(model: Any) -> tuple[Structure, Parameters]:
    """Take a model apart.

    Raises:
      ValueError: the model holds variables that are not parameters.
    """
    graph, state = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    names = tuple(_name(path) for path, _ in leaves)
    groups = parameter_groups(model)
    labels = tuple(groups[name] for name in names)
    parameters = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}
    return Structure(graph, tree, names, labels), parameters


def outline(make: Callable[[], Any]) -> tuple[Structure, Parameters]:
    """:func:`split` of the model that ``make`` would make, shapes in place of arrays."""
    return split(nnx.eval_shape(make))


def initialize(make: Callable[[], Any], shardings: Any = None) -> Parameters:
    """The parameters of a new model, drawn in one compiled program.

    Args:
      make: makes the model.
      shardings: where each parameter is to lie, by name; each device draws its own part. None:
        on the first device.
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


def _name(path: Any) -> str:
    return _key(path).removesuffix(".value")
