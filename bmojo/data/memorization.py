"""Memorization: a dictionary that only the weights can hold (MAD, arXiv 2403.17844)."""

import dataclasses
import functools

import numpy as np

from bmojo.data.synthetic import Example, SyntheticSource, SyntheticTask, blank, sequence_checksum

__all__ = ["MemorizationConfig"]


@dataclasses.dataclass(frozen=True)
class MemorizationConfig(SyntheticTask):
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

    least = {"length": 2, "vocab_size": 5, "dictionary": 0}
    slices = "num_keys"

    @property
    def num_keys(self) -> int:
        """K, entries of the dictionary."""
        return (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        return 1 / self.num_keys

    def values(self) -> np.ndarray:
        """The values of keys 1 .. K, (K,)."""
        return _values(self.num_keys, self.dictionary).copy()

    def example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        """Inputs, targets and size of the dictionary of one example."""
        number = self.length // 2
        keys = source.of_split(
            lambda: rng.integers(1, self.num_keys + 1, size=number), sequence_checksum
        )
        inputs, targets = blank(self.length)
        inputs[: 2 * number : 2] = keys
        targets[1 : 2 * number : 2] = _values(self.num_keys, self.dictionary)[keys - 1]
        return inputs, targets, self.num_keys


@functools.lru_cache(maxsize=8)
def _values(keys: int, dictionary: int) -> np.ndarray:
    return 1 + keys + np.random.default_rng(dictionary).permutation(keys)
