"""The one protocol that every mixer follows.

A mixer serves training, truncated backpropagation, prefill, decoding and streaming
evaluation with one call: it takes any number of new tokens and the state that the tokens
before them left, and gives back outputs and the next state.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx

from bmojo.types import Array, DType, Float, Int

State = Any
"""A frozen dataclass pytree of arrays with a leading batch axis; () if there is none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceShard:
    """In place of a state: other tokens of the sequence lie on the devices before this one.

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


@runtime_checkable
class Mixer(Protocol):
    """mixer(u, state) -> (out, state)."""

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: State | SequenceShard | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], State]:
        """Mix L new tokens.

        Args:
          u: normalized inputs.
          state: what the tokens before left behind. None: there were none, which is also a
            promise that position 0 is the first token, so that forms may specialize.
            :class:`SequenceShard`: the tokens before are on other devices too.
          segment_ids: document of each token; a change resets every kind of memory. None:
            the row's current document goes on.
          lengths: valid tokens of each row; the rest is padding on the right, leaves no
            trace in the state, and its outputs mean nothing. None: all L, and the only
            choice with :class:`SequenceShard`.

        Returns:
          Outputs in the dtype of ``u``, and the state after the valid tokens.
        """

    def init_state(self, batch_size: int, capacity: int | None = None) -> State:
        """The state before the first token.

        Args:
          batch_size: rows.
          capacity: tokens that a memory growing with its input must be able to hold; mixers
            with bounded memory ignore it.
        """

    def flops_per_token(self, length: int) -> float:
        """Forward floating-point operations per token (2 per multiply-add) at that length."""


@runtime_checkable
class MixerConfig(Protocol):
    """What a config names: a frozen dataclass that knows how to make its mixer."""

    def make(self, d_model: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType) -> Mixer:
        """Make the mixer for inputs of width ``d_model``.

        Args:
          d_model: width of inputs and outputs.
          rngs: source of the initial parameters.
          dtype: of the computation; states, softmax and innovation are at least float32.
          param_dtype: of the parameters.
        """
