"""Fuzzy recall: keys and values of several tokens (MAD, arXiv 2403.17844)."""

import dataclasses
import math

import numpy as np

from bmojo.data.synthetic import (
    Example,
    SyntheticSource,
    SyntheticTask,
    binding_checksum,
    blank,
    choose,
    repeated,
)

__all__ = ["FuzzyMQARConfig"]


@dataclasses.dataclass(frozen=True)
class FuzzyMQARConfig(SyntheticTask):
    """Recall values of several tokens by keys of several tokens.

    A sequence is one pair after the other, key before value. Whenever a key comes back, the
    target at its last token is the first token of its value, and the target at each token of
    the value is the one behind it; every other target is -1 and carries no loss.
    ``FuzzyMQARConfig(length=24, num_pairs=(2,), vocab_size=12, key_tokens=2,
    value_tokens=2)``, seed 0, train, example 0::

        inputs   2  9  2  9  1  5  8 11  1  5  8 11  2  9  2  9  1  5  8 11  2  9  0  0
        targets -1 -1  9 -1 -1 -1 -1 -1 -1  8 11 -1  9 -1  9 -1 -1  8 11 -1  9 -1 -1 -1

    Key tokens are 1 .. V//2 - 1, value tokens V//2 .. V - 1, so that a key ends where a value
    begins. Each key has 1 .. key_tokens tokens and each value 1 .. value_tokens, every
    number as likely, and no token twice; keys differ, values need not. Every pair of an
    example is shown at least once; beyond that keys come at random until one does not fit,
    and 0 fills the rest. MAD draws all of them at random, asks for the longest keys
    alone when it tests, and fills in front.

    Train and test never share a set of bindings, whatever the seed and the length.

    Attributes:
      length: L, tokens of a sequence.
      num_pairs: numbers of pairs; each example draws one of them uniformly.
      vocab_size: V.
      key_tokens: most tokens of a key.
      value_tokens: most tokens of a value.
    """

    length: int
    num_pairs: tuple[int, ...]
    vocab_size: int = 64
    key_tokens: int = 3
    value_tokens: int = 3

    least = {"length": 1, "vocab_size": 4, "key_tokens": 1, "value_tokens": 1}
    slices = "num_pairs"

    def check(self) -> None:
        """Refuse pairs that neither the sequence nor the vocabulary can hold."""
        most, longest = max(self.num_pairs), self.key_tokens + self.value_tokens
        shown = f"{most} pairs of up to {longest} tokens and a query"
        self.check_room(shown, (most + 1) * longest, "num_pairs")
        half = self.vocab_size // 2
        for field, tokens in (("key_tokens", half - 1), ("value_tokens", self.vocab_size - half)):
            if getattr(self, field) > tokens:
                raise ValueError(
                    f"FuzzyMQAR.{field}: {getattr(self, field)} different tokens are more than the "
                    f"{tokens} that a vocabulary of {self.vocab_size} has for them; lower {field} "
                    "or raise vocab_size"
                )
        keys = sum(math.perm(half - 1, size) for size in range(1, self.key_tokens + 1))
        remedy = "raise vocab_size or key_tokens, or lower num_pairs"
        self.check_pairs(f"{self.vocab_size} tokens make", keys, most, remedy)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all tokens of values."""
        return 1 / (self.vocab_size - self.vocab_size // 2)

    def example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        """Inputs, targets and number of pairs of one example."""
        number = choose(rng, self.num_pairs)
        keys, values = source.of_split(lambda: self._draw(rng, number), self._checksum)
        sizes = (keys > 0).sum(1) + (values > 0).sum(1)

        room = self.length - sizes.sum()
        again = rng.integers(number, size=room // 2)
        again = again[: np.searchsorted(np.cumsum(sizes[again]), room, side="right")]
        order = rng.permutation(np.concatenate([np.arange(number), again]))

        tokens = np.concatenate([keys, values], axis=1)[order]
        answers = np.concatenate([np.full_like(keys, -1), values], axis=1)[order]
        answers[~repeated(order)] = -1
        there = tokens > 0
        inputs, targets = blank(self.length)
        shown = sizes[order].sum()
        inputs[:shown] = tokens[there]
        targets[: shown - 1] = answers[there][1:]  # at the token before each
        return inputs, targets, number

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Different keys, and values, a row of tokens each with zeros behind."""
        half = self.vocab_size // 2
        keys = np.zeros((0, self.key_tokens), np.int64)
        while len(keys) < number:
            keys = np.concatenate([keys, _motifs(rng, 2 * number, 1, half, self.key_tokens)])
            first = np.unique(_numbers(keys, self.vocab_size), return_index=True)[1]
            keys = keys[np.sort(first)]
        values = _motifs(rng, number, half, self.vocab_size, self.value_tokens)
        return keys[:number], values

    def _checksum(self, bindings: tuple[np.ndarray, np.ndarray]) -> int:
        keys, values = (_numbers(motifs, self.vocab_size) for motifs in bindings)
        return binding_checksum(keys, values)


def _motifs(
    rng: np.random.Generator, number: int, first: int, end: int, longest: int
) -> np.ndarray:
    """Rows of 1 .. ``longest`` different tokens of first .. end - 1, with zeros behind."""
    tokens = np.argsort(rng.random((number, end - first)), axis=1)[:, :longest]
    sizes = rng.integers(1, longest + 1, size=(number, 1))
    return np.where(np.arange(longest) < sizes, first + tokens, 0)


def _numbers(motifs: np.ndarray, vocab_size: int) -> np.ndarray:
    """Each row of tokens as one number, modulo 2^64."""
    places = np.array(
        [pow(vocab_size, place, 2**64) for place in range(motifs.shape[1])], np.uint64
    )
    return (motifs.astype(np.uint64) * places).sum(1)
