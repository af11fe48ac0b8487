"""Shapes of a run's arrays, together with where each of them is to lie."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from bmojo.layers.protocol import parameter_axes
from bmojo.training.mesh import Layout
from bmojo.training.parameters import Parameters


class Placed:
    """Gives shapes their shardings; without a layout they stay as they are.

    Args:
      layout: where arrays lie; None: on one device.
      make: makes the model.
      shapes: of its parameters.

    Attributes:
      shardings: of the parameters, by name; None without a layout.

    Raises:
      RunError: a parameter cannot be cut as the layout says.
    """

    def __init__(self, layout: Layout | None, make: Callable[[], Any], shapes: Parameters):
        self._layout = layout
        self.shardings = None
        if layout is not None:
            axes = parameter_axes(nnx.eval_shape(make))
            self.shardings = layout.parameters(axes, shapes)

    def parameters(self, shapes: Parameters) -> Parameters:
        """Shapes of parameters, placed."""
        return shapes if self.shardings is None else _placed(shapes, self.shardings)

    def optimizer(self, state: Any) -> Any:
        """Shapes of an optimizer's state, placed."""
        if self._layout is None or self.shardings is None:
            return state
        return _placed(state, self._layout.optimizer(self.shardings, state))

    def settle(self, arrays: Any) -> Any:
        """See :meth:`bmojo.training.mesh.Layout.settle`."""
        return arrays if self._layout is None else self._layout.settle(arrays)

    def state(self, state: Any) -> Any:
        """Shapes of a model's state, placed."""
        return state if self._layout is None else _placed(state, self._layout.state(state))


def shardings_of(shapes: Any) -> Any:
    """The shardings of placed shapes."""
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
