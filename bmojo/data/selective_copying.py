"""Selective copying: pick tokens out of noise (MAD, arXiv 2403.17844; Mamba, 2312.00752)."""

import dataclasses

import numpy as np

from bmojo.data.synthetic import (
    SyntheticSource,
    check_choices,
    check_integer,
    check_room,
    choose,
    sequence_checksum,
)

__all__ = ["SelectiveCopyingConfig", "SelectiveCopyingSource"]


@dataclasses.dataclass(frozen=True)
class SelectiveCopyingConfig:
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

    def __post_init__(self):
        name = "SelectiveCopying"
        for field, least in (("length", 1), ("vocab_size", 4), ("noise_vocab", 1)):
            check_integer(name, field, getattr(self, field), least)
        object.__setattr__(self, "num_tokens", check_choices(name, "num_tokens", self.num_tokens))
        most = max(self.num_tokens)
        shown = f"{most} tokens shown and copied"
        check_room(name, self.length, shown, 2 * most + 1, "num_tokens")
        if self.vocab_size < self.noise_vocab + 3:
            raise ValueError(
                f"{name}.vocab_size: {self.vocab_size} tokens, {self.noise_vocab} of them noise "
                f"and one the separator, leave fewer than 2 for data; raise vocab_size to "
                f"{self.noise_vocab + 3} or lower noise_vocab"
            )

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all data tokens."""
        return 1 / (self.vocab_size - self.noise_vocab - 1)

    @property
    def slices(self) -> str:
        """What ``group`` counts."""
        return "num_tokens"

    def source(self, seed: int, split: str) -> "SelectiveCopyingSource":
        """All examples of a split: 'train' or 'test'."""
        return SelectiveCopyingSource(self, seed, split)


class SelectiveCopyingSource(SyntheticSource[SelectiveCopyingConfig]):
    """Examples of selective copying; ``group`` is the number of data tokens.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and number of data tokens of one example."""
        config = self.config
        number = choose(rng, config.num_tokens)
        first = config.noise_vocab + 1
        tokens = self.of_split(
            lambda: rng.integers(first, config.vocab_size, size=number), sequence_checksum
        )
        separator = config.length - number - 1
        inputs = np.zeros(config.length, np.int32)
        inputs[:separator] = rng.integers(config.noise_vocab, size=separator)
        inputs[np.sort(rng.permutation(separator)[:number])] = tokens
        inputs[separator] = config.noise_vocab
        targets = np.full(config.length, -1, np.int32)
        targets[separator + 1 :] = tokens
        return inputs, targets, number
