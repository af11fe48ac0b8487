"""Innovation: the part of the fading memory's next output that its past does not predict."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bmojo.ops.collectives import add_in_document
from bmojo.ops.positions import next_tail
from bmojo.types import Array, Float, Int, at_least_float32


def predictor(span: int) -> Float[Array, "K"]:
    """Weights c_1..c_k of the fixed predictor: a plain average of the last ``span`` outputs."""
    if span < 1:
        raise ValueError(f"the predictor needs a span of at least 1, got {span}")
    return jnp.full((span,), 1.0 / span, jnp.float32)


def residual(
    y: Float[Array, "B L D"],
    tail: Float[Array, "B T D"],
    weights: Sequence[float] | Float[Array, "K"],
    segment_pos: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L D"]:
    """y_t - sum_{i=1..k} c_i y_{t-i}, with y zero before the token's document.

    Args:
      y: outputs of the fading memory.
      tail: at least k outputs before the call, in order of time.
      weights: c_1..c_k, nonnegative, summing to one.
      segment_pos: tokens of the same document before each token; None: no document ends in
        reach.

    Returns:
      The residual, float32 or wider.
    """
    dtype = at_least_float32(y.dtype)
    length, before = y.shape[1], tail.shape[1]
    out = y = y.astype(dtype)
    past = jnp.concatenate([tail.astype(dtype), y], axis=1)
    for lag in range(1, len(weights) + 1):
        delayed = past[:, before - lag : before - lag + length]
        if segment_pos is not None:
            delayed = jnp.where((segment_pos >= lag)[..., None], delayed, 0)
        out = out - delayed * jnp.asarray(weights[lag - 1], dtype)
    return out


def innovation(
    residuals: Float[Array, "B L D"],
    power: Float[Array, "B D"] | None = None,
    segment_pos: Int[Array, "B L"] | None = None,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B L"], Float[Array, "B D"] | None]:
    """The mean over channels of each token's squared residual.

    With ``power`` each channel is first divided by the running mean of its own squared
    residuals in the document, the present one included, so that loud channels do not drown
    the rest. No gradient flows through the result.

    Args:
      residuals: from :func:`residual`.
      power: sum of squared residuals of the current document before the call, per channel;
        None: plain innovation.
      segment_pos: tokens of the same document before each token; needed with ``power``.
      lengths: valid tokens of each row; None: all.

    Returns:
      The innovation, nonnegative, and ``power`` after the last valid token.
    """
    squares = jnp.square(jax.lax.stop_gradient(residuals))
    if power is None:
        return jnp.mean(squares, axis=-1), None
    if segment_pos is None:
        raise ValueError("normalized innovation needs segment_pos of every token")
    # Running sums that begin anew at the first token of each document.
    elements = segment_pos == 0, squares
    resets, sums = jax.lax.associative_scan(add_in_document, elements, axis=1)
    carried = jax.lax.stop_gradient(power)[:, None]
    sums = jnp.where(resets[..., None], sums, sums + carried)
    mean = sums / (segment_pos + 1).astype(sums.dtype)[..., None]
    tiny = jnp.finfo(squares.dtype).tiny
    after = next_tail(power[:, None], sums, lengths)[:, 0]
    return jnp.mean(squares / jnp.maximum(mean, tiny), axis=-1), after
