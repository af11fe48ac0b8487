"""Sampling of the next token from logits.

The steps, each on the tokens that the one before kept:

1. temperature T: p_i = softmax(z / T)_i. At T = 0 the token of the largest logit is taken,
   the lower id where several are equally large, and the other steps are left out.
2. top-k: of the tokens in falling order of p (equal ones in rising order of id) the first k
   are kept.
3. top-p (arXiv 1904.09751): the shortest beginning of that order whose share of all tokens kept
   so far reaches P: a token stays if those before it sum to less than P.
4. min-p (arXiv 2407.01082): tokens with p_i >= m max_j p_j are kept.

The token is argmax_i (log p_i + g_i) over the kept tokens, with standard Gumbel noise g: a draw
from p. The noise comes from a seed, the row's number and the position of the token, never from
the batch. Logits depend on the size of the batch by rounding alone: in float32 tokens hardly ever
do, in bfloat16, where logits are often equal or nearly so, some do.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.types import Array, Bool, Float, Int

__all__ = ["NOT_A_NUMBER", "Sampling", "kept", "sample"]

NOT_A_NUMBER = -1
"""Takes the place of a token in a row whose logits hold a NaN."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The distribution of tokens, in the terms of this module; the defaults are softmax(z).

    ``temperature`` 0 takes the most likely token; ``top_k`` None, ``top_p`` 1 and ``min_p`` 0 keep
    all tokens.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(
                f"temperature: {self.temperature} is out of range; give 0 (the most likely "
                "token) or a positive number"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: {self.top_k} keeps no token; give at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} is out of range; give a number in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: {self.min_p} is out of range; give a number in [0, 1]")


def kept(logits: Float[Array, "B V"], sampling: Sampling) -> Bool[Array, "B V"]:
    """Which tokens may be drawn at a positive temperature."""
    scaled = _scaled(logits, sampling)
    vocab_size = logits.shape[-1]
    keep = jnp.ones(logits.shape, bool)
    if (sampling.top_k or vocab_size) < vocab_size or sampling.top_p < 1:
        order = jnp.argsort(-scaled, axis=-1, stable=True)
        falling = jnp.take_along_axis(scaled, order, axis=-1)
        first = jnp.arange(vocab_size) < (sampling.top_k or vocab_size)
        first = jnp.broadcast_to(first, logits.shape)
        p = jax.nn.softmax(jnp.where(first, falling, -jnp.inf), axis=-1)
        before = jnp.cumsum(p, axis=-1) - p
        if sampling.top_p < 1:
            first &= before < sampling.top_p
        rows = jnp.arange(logits.shape[0])[:, None]
        keep = jnp.zeros_like(keep).at[rows, order].set(first)
    if sampling.min_p > 0:
        keep &= scaled >= scaled.max(axis=-1, keepdims=True) + math.log(sampling.min_p)
    return keep


@functools.partial(jax.jit, static_argnames="sampling")
def sample(
    logits: Float[Array, "B V"],
    seed: np.uint32,
    rows: Int[Array, "B"],
    positions: Int[Array, "B"],
    *,
    sampling: Sampling,
) -> Int[Array, "B"]:
    """Draw one token a row, by its number and the position of the token in it.

    Returns:
      Token ids, NOT_A_NUMBER for rows with a NaN among their logits.
    """
    if sampling.temperature == 0:
        tokens = jnp.argmax(logits, axis=-1)
    else:
        noise = jax.vmap(_gumbel, (None, 0, 0, None, None))(
            seed, rows, positions, logits.shape[-1], logits.dtype
        )
        scores = _scaled(logits, sampling) + noise
        tokens = jnp.argmax(jnp.where(kept(logits, sampling), scores, -jnp.inf), axis=-1)
    wrong = jnp.isnan(logits).any(axis=-1)
    return jnp.where(wrong, NOT_A_NUMBER, tokens).astype(jnp.int32)


def _scaled(logits: Float[Array, "B V"], sampling: Sampling) -> Float[Array, "B V"]:
    """(z - max z) / T, which no small T makes infinite."""
    least = float(jnp.finfo(logits.dtype).tiny)
    return (logits - logits.max(axis=-1, keepdims=True)) / max(sampling.temperature, least)


def _gumbel(
    seed: np.uint32, row: Array, position: Array, size: int, dtype: jnp.dtype
) -> Float[Array, "V"]:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), position)
    return jax.random.gumbel(key, (size,), dtype)
