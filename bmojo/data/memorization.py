"""Memorization: a dictionary that only the weights can hold (MAD, arXiv 2403.17844)."""

import dataclasses

import numpy as np

from bmojo.data.synthetic import SyntheticSource, check_integer, sequence_checksum

__all__ = ["MemorizationConfig", "MemorizationSource"]


@dataclasses.dataclass(frozen=True)
class MemorizationConfig:
    """Give the value that a fixed dictionary has for each key; no value is ever shown.

    Keys, drawn with replacement, and the insertion token, 0, take turns: the target at an
    insertion token is the value of the key before it. Every other target is -1 and carries
    no loss. ``MemorizationConfig(length=8, vocab_size=11)``, seed 0, train, example 0::

        inputs   5  0  4  0  3  0  2  0
        targets -1  7 -1  6 -1  9 -1 10

    With K = (V - 1) // 2 the keys are 1 .. K and the values K + 1 .. 2 K, each of one key.
    The dictionary is a function of K and ``dictionary`` alone: it is the same in both splits
    and under every seed, or there would be nothing to learn. Train and test never share a
    list of keys in one order.

    Attributes:
      length: L, tokens of a sequence; an odd one ends with a 0 that asks for nothing.
      vocab_size: V.
      dictionary: seed of the dictionary.
    """

    length: int
    vocab_size: int = 257
    dictionary: int = 0

    def __post_init__(self):
        for field, least in (("length", 2), ("vocab_size", 5), ("dictionary", 0)):
            check_integer("Memorization", field, getattr(self, field), least)

    @property
    def num_keys(self) -> int:
        """K, entries of the dictionary."""
        return (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        return 1 / self.num_keys

    @property
    def slices(self) -> str:
        """What ``group`` counts."""
        return "num_keys"

    def values(self) -> np.ndarray:
        """The values of keys 1 .. K, (K,)."""
        rng = np.random.default_rng(self.dictionary)
        return 1 + self.num_keys + rng.permutation(self.num_keys)

    def source(self, seed: int, split: str) -> "MemorizationSource":
        """All examples of a split: 'train' or 'test'."""
        return MemorizationSource(self, seed, split)


class MemorizationSource(SyntheticSource[MemorizationConfig]):
    """Examples of memorization; ``group`` is the number of keys of the dictionary.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def __init__(self, config: MemorizationConfig, seed: int, split: str):
        super().__init__(config, seed, split)
        self._values = config.values()

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and size of the dictionary of one example."""
        config = self.config
        number = config.length // 2
        keys = self.of_split(
            lambda: rng.integers(1, config.num_keys + 1, size=number), sequence_checksum
        )
        inputs = np.zeros(config.length, np.int32)
        inputs[: 2 * number : 2] = keys
        targets = np.full(config.length, -1, np.int32)
        targets[1 : 2 * number : 2] = self._values[keys - 1]
        return inputs, targets, config.num_keys
