"""Induction heads: what followed the trigger (arXiv 2209.11895, as in H3 and Mamba)."""

import dataclasses

import numpy as np

from bmojo.data.synthetic import SyntheticSource, check_integer, sequence_checksum

__all__ = ["InductionHeadsConfig", "InductionHeadsSource"]


@dataclasses.dataclass(frozen=True)
class InductionHeadsConfig:
    """Give the token that followed a trigger when the trigger comes back.

    A sequence of random tokens holds the trigger, 0, at a random place, and again at its end.
    The target there is the token behind the first trigger; every other target is -1 and
    carries no loss. ``InductionHeadsConfig(length=12, vocab_size=8)``, seed 0, train,
    example 0::

        inputs   4  7  6  7  3  5  7  5  0  5  5  0
        targets -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1  5

    Train and test never share a sequence, whatever the seed.

    Attributes:
      length: L, tokens of a sequence.
      vocab_size: V; the trigger is 0, the other tokens are 1 .. V - 1.
    """

    length: int
    vocab_size: int = 16

    def __post_init__(self):
        check_integer("InductionHeads", "length", self.length, 3)
        check_integer("InductionHeads", "vocab_size", self.vocab_size, 3)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all tokens but the trigger."""
        return 1 / (self.vocab_size - 1)

    @property
    def slices(self) -> str:
        """What ``group`` counts."""
        return "distance"

    def source(self, seed: int, split: str) -> "InductionHeadsSource":
        """All examples of a split: 'train' or 'test'."""
        return InductionHeadsSource(self, seed, split)


class InductionHeadsSource(SyntheticSource[InductionHeadsConfig]):
    """Examples of induction heads.

    ``group`` is the distance between the triggers, rounded down to a power of two.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and distance of one example."""
        inputs = self.of_split(lambda: self._draw(rng), sequence_checksum)
        last = self.config.length - 1
        trigger = int(np.argmin(inputs))
        targets = np.full(self.config.length, -1, np.int32)
        targets[last] = inputs[trigger + 1]
        return inputs, targets, 1 << ((last - trigger).bit_length() - 1)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        length = self.config.length
        inputs = rng.integers(1, self.config.vocab_size, size=length, dtype=np.int32)
        inputs[rng.integers(length - 2)] = 0
        inputs[-1] = 0
        return inputs
