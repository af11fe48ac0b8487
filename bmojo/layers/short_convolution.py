"""The short causal convolution in front of a recurrence, with its parameters."""

import math
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.layers.protocol import Options
from bmojo.ops.axes import Names
from bmojo.ops.convolution import causal_convolution
from bmojo.ops.positions import TokenPositions, next_tail
from bmojo.ops.time_sharding import TimeContext
from bmojo.types import Array, Float, Int


class ShortConvolution(nnx.Module):
    """silu of a depthwise causal convolution over ``d_conv`` tokens.

    Attributes:
      kernel: taps (d_conv, width), the present token's first.
      bias: (width,); None: there is none.
    """

    axes: ClassVar[dict[str, Names]] = {"kernel": (None, "inner"), "bias": ("inner",)}
    undecayed: ClassVar[tuple[str, ...]] = ("bias",)

    def __init__(
        self, width: int, d_conv: int, bias: bool = True, **options: Unpack[Options]
    ) -> None:
        """Initialize taps and bias uniformly within 1 / sqrt(d_conv), as Mamba does."""
        bound = 1 / math.sqrt(d_conv)
        self.dtype = options["dtype"]

        def draw(*shape: int) -> nnx.Param:
            key, dtype = options["rngs"].params(), options["param_dtype"]
            return nnx.Param(jax.random.uniform(key, shape, dtype, -bound, bound))

        self.kernel = draw(d_conv, width)
        self.bias = draw(width) if bias else None

    def init_tail(self, batch_size: int) -> Float[Array, "B T D"]:
        """Nothing seen: zeros, in the compute dtype."""
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
        """silu(conv(x)) in the compute dtype, and the tail after the call.

        ``tail`` holds the inputs before the tokens of all devices.
        """
        before = context.tail(tail, x)
        after = next_tail(before, x, lengths)
        # Before the first token of all, the tail holds the zeros that segment_pos would put there.
        segment_pos = None if context.first and tokens.start is None else tokens.segment_pos
        kernel = self.kernel[...].astype(self.dtype)
        out = causal_convolution(x.astype(self.dtype), kernel, before, segment_pos)
        if self.bias is not None:
            out = out + self.bias[...].astype(self.dtype)
        return jax.nn.silu(out), after
