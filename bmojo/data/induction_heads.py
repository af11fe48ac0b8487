"""Induction heads: the token behind the trigger (arXiv 2209.11895, as in H3 and Mamba)."""

import dataclasses

import numpy as np

from bmojo.data.synthetic import Example, SyntheticSource, SyntheticTask, sequence_checksum

__all__ = ["InductionHeadsConfig"]


@dataclasses.dataclass(frozen=True)
class InductionHeadsConfig(SyntheticTask):
    """Give the token that followed a trigger when the trigger comes back.

    A sequence of random tokens holds the trigger, 0, at a random place, and again at its end.
    The target there is the token behind the first trigger; every other target is -1 (no loss).
    ``InductionHeadsConfig(length=12, vocab_size=8)``, seed 0, train, example 0::

        inputs   4  7  6  7  3  5  7  5  0  5  5  0
        targets -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1  5

    Train and test never share a sequence, whatever the seed.

    Attributes:
      length: L, tokens of a sequence.
      vocab_size: V; the trigger is 0, the other tokens are 1 .. V - 1.
    """

    length: int
    vocab_size: int = 16

    least = {"length": 3, "vocab_size": 3}
    slices = "distance"

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all tokens but the trigger."""
        return 1 / (self.vocab_size - 1)

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        inputs = source.of_split(lambda: self._draw(rng), sequence_checksum)
        last = self.length - 1
        trigger = int(np.argmin(inputs))
        targets = np.full(self.length, -1, np.int32)
        targets[last] = inputs[trigger + 1]
        return inputs, targets, 1 << ((last - trigger).bit_length() - 1)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        inputs = rng.integers(1, self.vocab_size, size=self.length, dtype=np.int32)
        inputs[rng.integers(self.length - 2)] = 0
        inputs[-1] = 0
        return inputs
