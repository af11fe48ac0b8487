"""Operations and bytes of a step of training and of a decoded token."""

from bmojo.description import Description
from bmojo.ops.cross_entropy import TOKENS
from scripts.performance.chips import Work
from scripts.performance.counts import activation_bytes, elementwise, mixers, scores

TOKENS_OF_A_STEP = 65_536
PASSES = 4
"""Forward, forward again (remat 'full'), and backward, which counts twice."""
WEIGHTS = 44
"""Bytes for a parameter and step: read in float32 by three passes 12, gradient written and read 8,
both moments read and written 16, parameter read and written 8."""
SOFTMAX = 4
"""Elementwise operations for a score: difference, exponential, two sums."""


def training(description: Description, length: int) -> Work:
    """A step of ``TOKENS_OF_A_STEP`` tokens on one chip, or one chip's part of a larger step."""
    config, layers = description.config, mixers(description)
    vector = sum(map(elementwise, layers))
    softmax = SOFTMAX * sum(scores(mixer, length) for mixer in layers)
    products = description.flops_per_token(length) - vector
    moved = PASSES * sum(activation_bytes(mixer, config.d_model) for mixer in layers)
    moved += 3 * 2.0 * config.vocab_size * config.d_model / TOKENS  # the table, for each block
    tokens = TOKENS_OF_A_STEP
    return Work(
        PASSES * tokens * products,
        PASSES * tokens * (vector + softmax),
        tokens * moved + WEIGHTS * description.parameters,
    )


def decoding(
    description: Description, length: int, rows: int, state: tuple[int, int] | None = None
) -> Work:
    """A token of each of some rows behind ``length`` tokens, weights in bfloat16.

    Args:
      description: of the model.
      length: tokens before.
      rows: of the batch.
      state: ``description.memory(length)`` where it is known.
    """
    layers = mixers(description)
    vector = sum(map(elementwise, layers))
    softmax = SOFTMAX * sum(scores(mixer, length, last=True) for mixer in layers)
    # At twice the length the average token sees as many tokens as the last one here.
    products = description.flops_per_token(2 * length) - vector
    recurrent, key_values = state or description.memory(length)
    return Work(
        rows * products,
        rows * (vector + softmax),
        2.0 * description.parameters + rows * (2.0 * recurrent + key_values),
    )
