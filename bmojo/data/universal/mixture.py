"""Solomonoff's mixture as far as it can be computed: all short programs and a sample of longer."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from bmojo.data.universal.machine import INSTRUCTIONS, Machine, Output

__all__ = ["Mixture", "ProgramPrior", "enumerated"]

KEPT = 8


@dataclasses.dataclass(frozen=True)
class ProgramPrior:
    """Programs drawn symbol by symbol.

    Attributes:
      end: probability that the program ends, before each instruction; these are equally likely.
    """

    end: float = 0.125

    def code_length(self, length: int) -> float:
        """Bits of a program of ``length`` instructions, -log2 of its probability."""
        return length * math.log2(len(INSTRUCTIONS) / (1 - self.end)) - math.log2(self.end)

    def longer(self, length: int) -> float:
        """Probability of all programs of more than ``length`` instructions."""
        return (1 - self.end) ** (length + 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Different outputs with weights, and a weight for whatever else there may be.

    Attributes:
      outputs: no two of them equal.
      weights: of each, (U,): the probability of the programs that write it.
      rest: weight of a predictor that the caller gives.
      length: symbols that are known of every output.
    """

    outputs: tuple[Output, ...]
    weights: np.ndarray
    rest: float
    length: int

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All symbols in one row, and of each output where it begins, its start and its period."""
        texts = [output.start + output.period for output in self.outputs]
        sizes = np.asarray([len(text) for text in texts], np.int64)
        starts = np.asarray([len(output.start) for output in self.outputs], np.int64)
        symbols = np.frombuffer(b"".join(texts), np.uint8)
        # Without a period nothing is asked for behind the start.
        return symbols, np.cumsum(sizes) - sizes, starts, np.maximum(sizes - starts, 1)

    def bits(self, symbols: np.ndarray, rest_bits: np.ndarray) -> np.ndarray:
        """Bits of each symbol, given those before.

        Args:
          symbols: (n, L).
          rest_bits: bits (n, L) of the symbols under the predictor that has the rest's weight.

        Returns:
          Bits (n, L), float64. The outputs that the symbols before agree with, and the rest,
          predict by their posterior weights.

        Raises:
          ValueError: L exceeds ``length``.
        """
        if symbols.shape[1] > self.length:
            raise ValueError(
                f"symbols: {symbols.shape[1]} in a sequence, but outputs are known to "
                f"{self.length} only; enumerate to that length"
            )
        with np.errstate(divide="ignore"):
            agreeing = np.log2([self._agreeing(row) for row in symbols])
            rest = np.log2(self.rest) - np.cumsum(np.pad(rest_bits, ((0, 0), (1, 0))), axis=1)
        return -np.diff(np.logaddexp2(agreeing, rest), axis=1)

    def _agreeing(self, row: np.ndarray) -> np.ndarray:
        """Weight (L + 1,) of the outputs that begin with the first 0, 1, ... L symbols."""
        symbols, offsets, starts, periods = self._table
        left = np.arange(len(self.weights))
        found = np.zeros(len(row) + 1)
        found[0] = self.weights.sum()
        first, size = 0, 4
        while first < len(row) and len(left):
            piece = row[first : first + size]
            place = first + np.arange(len(piece))
            start, period = starts[left, None], periods[left, None]
            place = np.where(place < start, place, start + (place - start) % period)
            same = symbols[offsets[left, None] + place] == piece
            np.logical_and.accumulate(same, axis=1, out=same)
            found[first + 1 : first + 1 + len(piece)] = self.weights[left] @ same
            left = left[same[:, -1]]
            first, size = first + len(piece), 2 * size
        return found


@functools.lru_cache(maxsize=KEPT)
def enumerated(
    machine: Machine, prior: ProgramPrior, longest: int, length: int, sampled: int = 0
) -> Mixture:
    """The mixture of all programs of up to ``longest`` instructions, and a sample of longer ones.

    There are 7^n programs of n instructions: 20,000 in all up to 5, 140,000 up to 6.

    Args:
      machine: which programs run on.
      prior: their probabilities.
      longest: instructions of the longest programs that are enumerated.
      length: symbols that programs have to write; those that fall silent before are left out, as
        they are where sequences are drawn.
      sampled: longer programs drawn from the prior, always the same ones; half the prior of all
        longer programs is shared among them.

    Returns:
      Programs that write the same symbols are one entry. The rest has the remainder of the prior
      of longer programs: all of it, or half.
    """
    weights: dict[Output, float] = {}

    def add(program: Sequence[int], weight: float) -> None:
        output = machine.run(program, length)
        if output is not None:
            output = output.reduced()
            weights[output] = weights.get(output, 0.0) + weight

    for size in range(1, longest + 1):
        weight = 2.0 ** -prior.code_length(size)
        for program in itertools.product(range(len(INSTRUCTIONS)), repeat=size):
            add(program, weight)
    rest = prior.longer(longest)
    if sampled:
        rest, rng = rest / 2, np.random.default_rng(0)
        for size in longest + rng.geometric(prior.end, size=sampled):
            add(rng.integers(len(INSTRUCTIONS), size=size).tolist(), rest / sampled)
    return Mixture(tuple(weights), np.asarray(list(weights.values())), rest, length)
