"""Decoding loops: a call for each token, or compiled calls of many tokens.

Both give the drawn tokens of every row (B,), step by step, also of rows that have ended.
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

BLOCK = 32  # most tokens of a row that one call of a program draws
PATIENCE = 0.1  # seconds of a call; longer calls draw fewer tokens, so that they appear steadily


@dataclasses.dataclass(frozen=True)
class Draws:
    """Sampling of B rows, with the number and the position of the first draw of each (B,)."""

    sampling: Sampling
    seed: np.uint32
    numbers: np.ndarray
    position: np.ndarray

    def draw(self, logits: Array, step: int) -> Array:
        """Tokens (B,) from logits (B, V), ``step`` tokens after the first."""
        return sample(logits, self.seed, self.numbers, self.position + step, sampling=self.sampling)


def one_by_one(
    advance: Callable[[State, Array], tuple[Array, State]],
    logits: Array,
    state: State,
    draws: Draws,
    count: int,
) -> Iterator[np.ndarray]:
    """Draw ``count`` tokens of each row; ``advance`` reads one when the next is asked for."""
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
    tokens, at most ``block``, fewer where they take long. The tokens do not depend on it. The
    state is used up; a loop ends early where tokens in ``ends`` have ended all ``active`` rows
    (B,), which the caller changes in place between steps.
    """
    if count < 1:
        return
    programs, parameters = programs_of(model)
    ending = np.isin(np.arange(logits.shape[1]), ends)
    tokens = draws.draw(logits, 0)
    yield np.array(tokens)
    done, size = 1, 1
    if count > 1:
        state = programs.unstack(parameters, state)
    while done < count:
        began = time.perf_counter()
        rows = (tokens, active.copy(), ending, draws.seed, draws.numbers, draws.position + done)
        most = min(size, count - done)
        drawn, tokens, steps, state = programs.block(
            parameters, state, *rows, most, sampling=draws.sampling, size=block
        )
        found = np.array(drawn)[: int(steps)]
        done += len(found)
        seconds = time.perf_counter() - began
        if 2 * seconds <= PATIENCE:
            size = min(2 * size, block)
        elif seconds > 2 * PATIENCE:
            size = max(size // 2, 1)
        yield from found
