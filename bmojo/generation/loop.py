"""Where the tokens of a continuation come from: a loop of calls, or calls of a compiled loop.

Both give for each step what is drawn for every row (B,), ended or not, and go on until nobody
asks any more.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bmojo.generation.programs import programs_of
from bmojo.generation.sampling import Sampling, sample
from bmojo.layers.protocol import State
from bmojo.types import Array

__all__ = ["BLOCK", "Draws", "in_blocks", "one_by_one"]

BLOCK = 32
"""Most tokens of a row that one call of a program draws."""

PATIENCE = 0.1
"""Seconds that a call may take before fewer tokens are drawn at once, so that they flow."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the draws of B rows depend on beside logits.

    Attributes:
      sampling: how tokens are drawn.
      seed: of all draws.
      numbers: number of each row (B,).
      position: of the first token to draw in each row (B,).
    """

    sampling: Sampling
    seed: np.uint32
    numbers: np.ndarray
    position: np.ndarray

    def draw(self, logits: Array, step: int) -> Array:
        """Tokens (B,) from logits (B, V), ``step`` tokens behind the first."""
        return sample(logits, self.seed, self.numbers, self.position + step, sampling=self.sampling)


def one_by_one(
    advance: Callable[[State, Array], tuple[Array, State]],
    logits: Array,
    state: State,
    draws: Draws,
    count: int,
) -> Iterator[np.ndarray]:
    """Draw ``count`` tokens of each row; one is read when the next is asked for.

    Args:
      advance: reads a token (B,) of each row behind a state; next logits (B, V) and state.
      logits: of the first token.
      state: before it.
      draws: how.
      count: steps.
    """
    for step in range(count):
        tokens = draws.draw(logits, step)
        yield np.array(tokens)
        if step + 1 < count:
            logits, state = advance(state, tokens)


def in_blocks(
    model: Any,
    logits: Array,
    state: State,
    draws: Draws,
    ends: Sequence[int],
    active: np.ndarray,
    count: int,
    block: int,
) -> Iterator[np.ndarray]:
    """Draw up to ``count`` tokens of each row; the model reads within a compiled loop.

    The first token is drawn from the logits alone. Calls of the loop then draw 1, 2, 4, ...
    tokens, fewer where they take long: how many changes nothing in what is drawn.

    Args:
      model: a :class:`bmojo.model.Model`.
      logits: of the first token (B, V).
      state: before it; it is used up.
      draws: how.
      ends: tokens that end a row; a loop ends early where all have.
      active: rows that have not ended (B,), which the caller changes between steps, in place.
      count: steps, at most.
      block: steps in one call of the loop, at most.
    """
    if count < 1:
        return
    programs, parameters = programs_of(model)
    ending = np.isin(np.arange(logits.shape[1]), ends)
    tokens = draws.draw(logits, 0)
    yield np.array(tokens)
    done, size = 1, 1
    if count > 1:
        state = programs.apart(parameters, state)
    while done < count:
        began = time.perf_counter()
        drawn, tokens, steps, state = programs.block(
            parameters,
            state,
            tokens,
            active.copy(),
            ending,
            draws.seed,
            draws.numbers,
            draws.position + done,
            min(size, count - done),
            sampling=draws.sampling,
            size=block,
        )
        found = np.array(drawn)[: int(steps)]
        done += len(found)
        seconds = time.perf_counter() - began
        if 2 * seconds <= PATIENCE:
            size = min(2 * size, block)
        elif seconds > 2 * PATIENCE:
            size = max(size // 2, 1)
        yield from found
