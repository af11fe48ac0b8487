"""The short causal convolution in front of a recurrence, with its parameters."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.axes import Names
from bmojo.ops.convolution import causal_convolution
from bmojo.types import Array, DType, Float, Int


class ShortConvolution(nnx.Module):
    """Depthwise causal convolution with bias, over ``d_conv`` tokens, the present included.

    Attributes:
      kernel: taps (d_conv, width), the present token's first.
      bias: (width,).
    """

    axes: ClassVar[dict[str, Names]] = {"kernel": (None, "inner"), "bias": ("inner",)}

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

    @property
    def tail_size(self) -> int:
        """Inputs that a state has to carry from one call to the next."""
        return self.kernel.shape[0] - 1

    def init_tail(self, batch_size: int) -> Float[Array, "B T D"]:
        """The tail of rows that have seen nothing, in the compute dtype."""
        return jnp.zeros((batch_size, self.tail_size, self.kernel.shape[1]), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        tail: Float[Array, "B T D"],
        segment_pos: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Convolve ``x``; see :func:`bmojo.ops.convolution.causal_convolution`."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return causal_convolution(x.astype(self.dtype), kernel, tail, segment_pos) + bias
