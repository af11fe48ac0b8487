"""What a memory outside the model needs to know of a call: questions, and what may be kept."""

import dataclasses

import jax

from bmojo.layers.heads import KeyValues
from bmojo.types import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """L tokens as a layer read them.

    Attributes:
      q: their queries, with which stored tokens are looked for.
      new: their keys and values, which may be stored.
      innovation: how much each surprised the predictor, which decides whether they are.
    """

    q: Float[Array, "B L H P"]
    new: KeyValues
    innovation: Float[Array, "B L"]
