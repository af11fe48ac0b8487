"""Where the tokens before a call are: in its state, or also on the devices before this one.

A mixer asks :func:`open_context` and gets a :class:`TimeContext` or a :class:`ShardedContext`.
Its methods say what came before the call's tokens, in one way for both, so that a
forward pass is written once.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax

from bmojo.layers.protocol import SequenceShard, State
from bmojo.ops import collectives
from bmojo.ops.positions import Positions, TokenPositions, advance
from bmojo.types import Array, Int

Tree = TypeVar("Tree")


class TimeContext:
    """The state holds all that came before.

    Attributes:
      size: devices that the call's tokens are spread over.
    """

    size: int = 1

    def advance(
        self,
        positions: Positions,
        length: int,
        segment_ids: Int[Array, "B L"] | None,
        lengths: Int[Array, "B"] | None,
    ) -> tuple[TokenPositions, Positions]:
        """Place this device's tokens; see :func:`bmojo.ops.positions.advance`."""
        return advance(positions, length, segment_ids, lengths)

    def tail(self, first: Tree, x: Tree) -> Tree:
        """The last entries before this device's.

        Args:
          first: arrays (B, T, ...), the last T entries before the tokens of all devices.
          x: arrays (B, L, ...), the entries of this device.
        """
        return first

    def scan(
        self, combine: Callable[[Tree, Tree], Tree], first: Tree, element: Callable[[], Tree]
    ) -> Tree:
        """``first`` combined with the elements of the devices before this one.

        Args:
          combine: an associative function of (earlier, later).
          first: what the tokens before those of all devices left.
          element: makes what this device's tokens contribute.
        """
        return first

    def gather(self, x: Tree) -> Tree:
        """Arrays (B, L, ...) of all devices, joined along time."""
        return x

    def last(self, state: Tree) -> Tree:
        """The state after the tokens of all devices."""
        return state

    def inner(self, state: State | None) -> State | None:
        """The state that an inner mixer is to be called with."""
        return state


@dataclasses.dataclass(frozen=True)
class ShardedContext(TimeContext):
    """Other tokens of the sequence came before, on the devices before this one.

    Attributes:
      axis: name of the mesh axis.
      size: devices along it.
    """

    axis: str
    size: int

    def advance(
        self,
        positions: Positions,
        length: int,
        segment_ids: Int[Array, "B L"] | None,
        lengths: Int[Array, "B"] | None,
    ) -> tuple[TokenPositions, Positions]:
        """The positions has run on over the devices before."""
        before = collectives.positions_before(positions, length, segment_ids, self.axis, self.size)
        return advance(before, length, segment_ids, lengths)

    def tail(self, first: Tree, x: Tree) -> Tree:
        """By :func:`bmojo.ops.collectives.halo`."""

        def received(old: Array, now: Array) -> Array:
            return collectives.halo(now.astype(old.dtype), old.shape[1], self.axis, self.size, old)

        return jax.tree.map(received, first, x)

    def scan(
        self, combine: Callable[[Tree, Tree], Tree], first: Tree, element: Callable[[], Tree]
    ) -> Tree:
        """By :func:`bmojo.ops.collectives.exclusive_scan`."""
        return collectives.exclusive_scan(combine, first, element(), self.axis, self.size)

    def gather(self, x: Tree) -> Tree:
        """By :func:`bmojo.ops.collectives.gather`."""
        return collectives.gather(x, self.axis)

    def last(self, state: Tree) -> Tree:
        """By :func:`bmojo.ops.collectives.last`."""
        return collectives.last(state, self.axis, self.size)

    def inner(self, state: State | None) -> SequenceShard:
        """The same place in the sequence."""
        return SequenceShard(self.axis, self.size, state)


UNSHARDED = TimeContext()


def open_context(
    state: State | SequenceShard | None, lengths: Array | None
) -> tuple[TimeContext, State | None]:
    """Where the tokens before are, and the state before the tokens of all devices.

    Args:
      state: that a mixer was called with.
      lengths: that it was called with.

    Raises:
      ValueError: rows of several devices are said to have padding, or there is no such axis.
    """
    if not isinstance(state, SequenceShard):
        return UNSHARDED, state
    if lengths is not None:
        raise ValueError(
            "lengths: a sequence over several devices has no padded rows; fill them up and "
            "give the filling a document of its own in segment_ids"
        )
    try:
        devices = jax.lax.axis_size(state.axis)
    except NameError:
        raise ValueError(
            f"SequenceShard.axis: no mesh axis {state.axis!r} here; call the mixer inside "
            "jax.shard_map with that axis in axis_names"
        ) from None
    if devices != state.size:
        raise ValueError(
            f"SequenceShard.size: mesh axis {state.axis!r} has {devices} devices, got "
            f"{state.size}; give its size"
        )
    return ShardedContext(state.axis, state.size), state.first
