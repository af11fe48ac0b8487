"""Causal short depthwise convolution."""

import jax.numpy as jnp

from bmojo.ops.channels import scale
from bmojo.types import Array, Float, Int


def causal_convolution(
    x: Float[Array, "B L D"],
    kernel: Float[Array, "K D"],
    tail: Float[Array, "B T D"],
    segment_pos: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L D"]:
    """Depthwise convolution over the present token and the K - 1 before it.

    out_t = sum_{i=0..K-1} kernel_i * x_{t-i}, where x before the call is ``tail`` (its last
    entry is the latest token) and x before the token's document is zero.

    Args:
      x: inputs.
      kernel: taps, the present token's first. One tap per channel and lag.
      tail: at least K - 1 inputs before the call, in order of time.
      segment_pos: tokens of the same document before each token; None if no document ends within
        reach.

    Returns:
      The convolved inputs, in the dtype that ``x`` and ``kernel`` promote to.
    """
    length, taps = x.shape[1], kernel.shape[0]
    history = tail.shape[1]
    if history < taps - 1:
        raise ValueError(f"a kernel of {taps} taps needs a tail of {taps - 1}, got {history}")
    past = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    out = scale(x, kernel[0])
    for lag in range(1, taps):
        delayed = past[:, history - lag : history - lag + length]
        if segment_pos is not None:
            delayed = jnp.where((segment_pos >= lag)[..., None], delayed, 0)
        out = out + scale(delayed, kernel[lag])
    return out
