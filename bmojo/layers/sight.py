"""What the queries of a call may look at, before it is decided how to look."""

import dataclasses

from bmojo.layers.heads import KeyValues
from bmojo.ops.attention import Slots, View, attend_view, memory_view
from bmojo.ops.blocked_attention import memory_attention
from bmojo.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Sight:
    """A sliding window and memory slots; see :func:`bmojo.ops.blocked_attention.memory_attention`.

    Attributes:
      window: W.
      new: keys and values of the call's tokens.
      tail: those of the W - 1 tokens before the call.
      segment_pos: tokens of the same document before each token.
      slots: of the chunks that the call touches.
      slot_range: distances at which a slot is seen.
      offset: tokens of the current chunk that precede the call.
      num_fading: slots of each chunk, the first ones, that are fading and not eidetic.
    """

    window: int
    new: KeyValues
    tail: KeyValues
    segment_pos: Int[Array, "B L"]
    slots: Slots | None = None
    slot_range: tuple[int, int | None] = (0, None)
    offset: Int[Array, "B"] | None = None
    num_fading: int = 0

    def attend(self, q: Float[Array, "B L H P"]) -> Float[Array, "B L H P"]:
        """The attention's output for each query."""
        return memory_attention(
            q,
            self.new.k,
            self.new.v,
            self.tail.k,
            self.tail.v,
            self.segment_pos,
            window=self.window,
            slots=self.slots,
            slot_range=self.slot_range,
            offset=self.offset,
        )

    def view(self) -> View:
        """All keys and masks, written out."""
        return memory_view(
            self.new.k,
            self.new.v,
            self.tail.k,
            self.tail.v,
            self.segment_pos,
            window=self.window,
            slots=self.slots,
            slot_range=self.slot_range,
            offset=self.offset,
            num_fading=self.num_fading,
        )


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Keys that were picked for each query by itself.

    Attributes:
      keys: of each query.
    """

    keys: View

    def attend(self, q: Float[Array, "B L H P"]) -> Float[Array, "B L H P"]:
        """The attention's output for each query."""
        return attend_view(q, self.keys)

    def view(self) -> View:
        """All keys and masks."""
        return self.keys
