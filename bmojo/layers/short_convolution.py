"""The short causal convolution in front of a recurrence, with its parameters."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.ops.axes import Names
from bmojo.ops.convolution import causal_convolution
from bmojo.ops.positions import TokenPositions, next_tail
from bmojo.ops.time_sharding import TimeContext
from bmojo.types import Array, DType, Float, Int


class ShortConvolution(nnx.Module):
    """silu of a depthwise causal convolution with bias, over ``d_conv`` tokens.

    Attributes:
      kernel: taps (d_conv, width), the present token's first.
      bias: (width,).
    """

    axes: ClassVar[dict[str, Names]] = {"kernel": (None, "inner"), "bias": ("inner",)}
    undecayed: ClassVar[tuple[str, ...]] = ("bias",)

    def __init__(
        self, width: int, d_conv: int, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ):
        """Initialize taps and bias uniformly within 1 / sqrt(d_conv), as Mamba does."""
        bound = 1 / math.sqrt(d_conv)
        self.dtype = dtype
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), (d_conv, width), param_dtype, -bound, bound)
        )
        self.bias = nnx.Param(
            jax.random.uniform(rngs.params(), (width,), param_dtype, -bound, bound)
        )

    def init_tail(self, batch_size: int) -> Float[Array, "B T D"]:
        """The tail of rows that have seen nothing, in the compute dtype."""
        taps, width = self.kernel.shape
        return jnp.zeros((batch_size, taps - 1, width), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        tail: Float[Array, "B T D"],
        tokens: TokenPositions,
        lengths: Int[Array, "B"] | None,
        context: TimeContext,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B T D"]]:
        """Convolve ``x`` and apply silu.

        Args:
          x: inputs.
          tail: inputs before the tokens of all devices.
          tokens: places of the tokens.
          lengths: valid tokens of each row; None: all.
          context: the devices that the sequence is cut over.

        Returns:
          The result in the compute dtype, and the tail after the call.
        """
        before = context.tail(tail, x)
        after = next_tail(before, x, lengths)
        # Before the first token of all, the tail holds the zeros that segment_pos would put there.
        segment_pos = None if context.first and tokens.start is None else tokens.segment_pos
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        out = causal_convolution(x.astype(self.dtype), kernel, before, segment_pos) + bias
        return jax.nn.silu(out), after
