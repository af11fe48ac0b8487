"""Time sharding: a sequence on one device, or cut over the devices of a mesh axis.

A mixer opens a :class:`TimeContext` or a :class:`ShardedContext` (:func:`open_context`). Their
methods give what precedes the call's tokens, in one way for both, so that a forward pass is
written once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from bmojo.ops import collectives
from bmojo.ops.positions import Positions, TokenPositions, advance
from bmojo.types import Array, Bool, Int

Tree = TypeVar("Tree")
State = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceShard:
    """In place of a state: the call's tokens are one part of a sequence over several devices.

    For calls inside ``jax.shard_map``: device i of a mesh axis holds the i-th of ``size``
    equal parts of the time axis of inputs and ``segment_ids``, and gives that part of the
    outputs. The state that the call returns is the one after the last token of all devices,
    and the same on each.

    Attributes:
      axis: name of the mesh axis, a manual one.
      size: devices along it.
      first: the state before the first token of all, the same on every device; None: there
        was nothing before it.
    """

    axis: str = dataclasses.field(metadata={"static": True})
    size: int = dataclasses.field(metadata={"static": True})
    first: State | None = None


@dataclasses.dataclass(frozen=True)
class TimeContext:
    """All tokens of the call are on this device."""

    first: bool  # nothing came before the tokens of all devices
    size: int = 1  # devices that the call's tokens are spread over

    def tail(self, before: Tree, x: Tree) -> Tree:
        """The last T entries (B, T, ...) before this device's ``x`` (B, L, ...).

        ``before`` are those before the tokens of all devices.
        """
        return before

    def scan(
        self,
        combine: Callable[[Tree, Tree], Tree],
        before: Tree,
        element: Callable[[], Tree],
        start: Bool[Array, "B L"] | None = None,
    ) -> Tree:
        """``before`` combined with the elements of the devices before this one.

        ``combine`` is an associative function of (earlier, later), ``before`` left by the tokens
        before those of all devices; ``element`` makes the part of this device's tokens. Where
        documents ``start``, zeros stand for what was before.
        """
        return before

    def gather(self, x: Tree) -> Tree:
        """Arrays (B, L, ...) of all devices, joined along time."""
        return x

    def last(self, state: Tree) -> Tree:
        """The state after the tokens of all devices."""
        return state

    def inner(self, state: State) -> State | SequenceShard | None:
        """The state that an inner mixer is called with."""
        return None if self.first else state


@dataclasses.dataclass(frozen=True)
class ShardedContext(TimeContext):
    """Device i of a mesh axis holds the i-th part of the call's tokens."""

    axis: str = ""  # name of the mesh axis

    def tail(self, before: Tree, x: Tree) -> Tree:
        """By :func:`bmojo.ops.collectives.halo`."""

        def received(old: Array, now: Array) -> Array:
            return collectives.halo(now.astype(old.dtype), old.shape[1], self.axis, self.size, old)

        return jax.tree.map(received, before, x)

    def scan(
        self,
        combine: Callable[[Tree, Tree], Tree],
        before: Tree,
        element: Callable[[], Tree],
        start: Bool[Array, "B L"] | None = None,
    ) -> Tree:
        """By :func:`bmojo.ops.collectives.exclusive_scan`."""
        if start is None:
            return collectives.exclusive_scan(combine, before, element(), self.axis, self.size)
        pairs = (jnp.zeros(start.shape[:1], bool), before), (start.any(axis=1), element())
        joined = collectives.in_document(combine)
        return collectives.exclusive_scan(joined, *pairs, self.axis, self.size)[1]

    def gather(self, x: Tree) -> Tree:
        """By :func:`bmojo.ops.collectives.gather`."""
        return collectives.gather(x, self.axis)

    def last(self, state: Tree) -> Tree:
        """By :func:`bmojo.ops.collectives.last`."""
        return collectives.last(state, self.axis, self.size)

    def inner(self, state: State) -> SequenceShard:
        """The same part of the sequence."""
        return SequenceShard(self.axis, self.size, None if self.first else state)


def open_context(
    init_state: Callable[[int], State],
    state: State | SequenceShard | None,
    u: Array,
    segment_ids: Int[Array, "B L"] | None,
    lengths: Int[Array, "B"] | None,
) -> tuple[TimeContext, State, TokenPositions, Positions]:
    """The beginning of a mixer's call, whose arguments it takes; states have ``positions``.

    Returns:
      The context; the state before the tokens of all devices; the positions of this device's
      tokens; and those of the rows after them.

    Raises:
      ValueError: rows of several devices are said to have padding, or there is no such axis.
    """
    rows, length = u.shape[:2]
    if not isinstance(state, SequenceShard):
        before = init_state(rows) if state is None else state
        tokens, after = advance(before.positions, length, segment_ids, lengths)
        return TimeContext(state is None), before, tokens, after
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
    context = ShardedContext(state.first is None, state.size, state.axis)
    before = init_state(rows) if state.first is None else state.first
    start = collectives.positions_before(
        before.positions, length, segment_ids, context.axis, context.size
    )
    return context, before, *advance(start, length, segment_ids)
