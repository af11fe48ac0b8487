"""The one protocol that every mixer follows.

A mixer serves training, truncated backpropagation, prefill, decoding and streaming
evaluation with one call: it takes any number of new tokens and the state that the tokens
before them left, and gives back outputs and the next state.
"""

from typing import Any, Protocol, runtime_checkable

from flax import nnx

from bmojo.types import Array, DType, Float, Int

State = Any
"""A frozen dataclass pytree of arrays with a leading batch axis; () if there is none."""


@runtime_checkable
class Mixer(Protocol):
    """mixer(u, state) -> (out, state)."""

    def __call__(
        self,
        u: Float[Array, "B L D"],
        state: State | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B L D"], State]:
        """Mix L new tokens.

        Args:
          u: normalized inputs.
          state: what the tokens before left behind. None: there were none, which is also a
            promise that position 0 is the first token, so that forms may specialize.
          segment_ids: document of each token; a change resets every kind of memory. None:
            the row's current document goes on.
          lengths: valid tokens of each row; the rest is padding on the right, leaves no
            trace in the state, and its outputs mean nothing. None: all L.

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
