"""What a mixer looked at, and what it kept, while it read some tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.attention import EIDETIC, View
from bmojo.types import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """The attention and the memory of L tokens, read and not used for anything.

    Mixers that attend have a method ``trace(u, state, lengths, bins=...)`` beside their call.
    It goes the way of the call, and looks at the same keys, and gives a trace in place of the
    output.

    Attributes:
      spread: shares of each query's attention by tier and distance; see
        :func:`bmojo.ops.attention.spread`.
      held: positions of the tokens in the eidetic slots that each query sees, -1 where a slot
        is vacant.
      innovation: of each token; of size zero without eidetic slots.
    """

    spread: Float[Array, "B L H tiers bins"]
    held: Int[Array, "B L slots"]
    innovation: Float[Array, "B innovations"]


def held_positions(view: View, position: Int[Array, "B L"]) -> Int[Array, "B L slots"]:
    """Positions of the tokens in the eidetic slots that each query sees, -1 where vacant."""
    chosen = np.flatnonzero(view.tier == EIDETIC)
    rows, blocks, block = view.mask.shape[:3]
    seen, distance = (
        x[..., chosen].reshape(rows, blocks * block, len(chosen))[:, : position.shape[1]]
        for x in (view.mask, view.distance)
    )
    return jnp.where(seen, position[..., None] - distance, -1)
