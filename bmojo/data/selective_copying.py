"""Selective copying: pick tokens out of noise (MAD, arXiv 2403.17844; Mamba, 2312.00752)."""

import dataclasses

import numpy as np

from bmojo.data.synthetic import (
    Example,
    SyntheticSource,
    SyntheticTask,
    blank,
    choose,
    sequence_checksum,
)

__all__ = ["SelectiveCopyingConfig"]


@dataclasses.dataclass(frozen=True)
class SelectiveCopyingConfig(SyntheticTask):
    """Give the data tokens that were scattered among noise, in their order.

    Noise with n data tokens at random places, then a separator, then n zeros: the targets at
    the zeros are the data tokens. Every other target is -1 and carries no loss.
    ``SelectiveCopyingConfig(length=16, num_tokens=(3,), vocab_size=8, noise_vocab=2)``,
    seed 0, train, example 0::

        inputs   0  0  0  0  7  0  6  1  1  1  5  1  2  0  0  0
        targets -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1  7  6  5

    Noise tokens are 0 .. noise_vocab - 1, the separator is noise_vocab, data tokens are
    noise_vocab + 1 .. V - 1, drawn with replacement. MAD has one noise token, a blank, and
    the same number of data tokens in every example.

    Train and test never share data tokens in one order, whatever the seed, the length and
    the places.

    Attributes:
      length: L, tokens of a sequence.
      num_tokens: numbers of data tokens; each example draws one of them uniformly.
      vocab_size: V.
      noise_vocab: number of noise tokens.
    """

    length: int
    num_tokens: tuple[int, ...]
    vocab_size: int = 16
    noise_vocab: int = 1

    least = {"length": 1, "vocab_size": 4, "noise_vocab": 1}
    slices = "num_tokens"

    def check(self) -> None:
        """Refuse tokens that neither the sequence nor the vocabulary can hold."""
        most = max(self.num_tokens)
        self.check_room(f"{most} tokens shown and copied", 2 * most + 1, "num_tokens")
        if self.vocab_size < self.noise_vocab + 3:
            raise ValueError(
                f"SelectiveCopying.vocab_size: {self.vocab_size} tokens, {self.noise_vocab} of "
                "them noise and one the separator, leave fewer than 2 for data; raise vocab_size "
                f"to {self.noise_vocab + 3} or lower noise_vocab"
            )

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all data tokens."""
        return 1 / (self.vocab_size - self.noise_vocab - 1)

    def example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        """Inputs, targets and number of data tokens of one example."""
        number = choose(rng, self.num_tokens)
        first = self.noise_vocab + 1
        tokens = source.of_split(
            lambda: rng.integers(first, self.vocab_size, size=number), sequence_checksum
        )
        separator = self.length - number - 1
        inputs, targets = blank(self.length)
        inputs[:separator] = rng.integers(self.noise_vocab, size=separator)
        inputs[np.sort(rng.permutation(separator)[:number])] = tokens
        inputs[separator] = self.noise_vocab
        targets[separator + 1 :] = tokens
        return inputs, targets, number
