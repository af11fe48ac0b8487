"""Compression: a whole sequence in one state (MAD, arXiv 2403.17844)."""

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

__all__ = ["CompressionConfig"]


@dataclasses.dataclass(frozen=True)
class CompressionConfig(SyntheticTask):
    """Give every token of a random sequence after its end.

    n data tokens, the compression token, ``gap`` zeros, then one query for each place
    1 .. n, in order: the target at a query is the data token at its place. Every other
    target is -1 and carries no loss.
    ``CompressionConfig(length=12, num_tokens=(4,), vocab_size=12, data_vocab=6, gap=1)``,
    seed 0, train, example 4::

        inputs   3  7  6  4  1  0  8  9 10 11  0  0
        targets -1 -1 -1 -1 -1 -1  3  7  6  4 -1 -1

    Token 0 fills, 1 is the compression token, data tokens are 2 .. data_vocab + 1 and
    queries follow them, so that a vocabulary has V - data_vocab - 2 of these.

    MAD is an autoencoder: a further MLP decodes each token from one vector, the model's
    output at the compression token, and the place. A language model has no such bottleneck,
    so this task is weaker. Queries are answered from all that the model keeps: for
    a recurrent model that is its state, as in MAD; attention that reaches back to the data
    tokens can copy them instead. A gap of at least the window takes them out of a window's
    reach (of each layer's: a stack of l windows reaches l times as far).

    Train and test never share data tokens in one order, whatever the seed and the length.

    Attributes:
      length: L, tokens of a sequence; zeros fill what is left at its end.
      num_tokens: numbers of data tokens; each example draws one of them uniformly.
      vocab_size: V.
      data_vocab: number of different data tokens.
      gap: zeros between the compression token and the first query.
    """

    length: int
    num_tokens: tuple[int, ...]
    vocab_size: int = 64
    data_vocab: int = 16
    gap: int = 0

    least = {"length": 1, "vocab_size": 4, "data_vocab": 2, "gap": 0}
    slices = "num_tokens"

    def check(self) -> None:
        """Refuse tokens that neither the sequence nor the vocabulary can hold."""
        most = max(self.num_tokens)
        shown = f"{most} tokens, a gap of {self.gap} and {most} queries"
        self.check_room(shown, 2 * most + 1 + self.gap, "num_tokens or gap")
        needed = self.data_vocab + 2 + most
        if self.vocab_size < needed:
            raise ValueError(
                f"Compression.vocab_size: {self.data_vocab} data tokens, {most} queries and two "
                f"more need {needed} tokens, got {self.vocab_size}; raise vocab_size to {needed}, "
                "or lower data_vocab or num_tokens"
            )

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all data tokens."""
        return 1 / self.data_vocab

    def example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        """Inputs, targets and number of data tokens of one example."""
        number = choose(rng, self.num_tokens)
        queries = self.data_vocab + 2
        tokens = source.of_split(lambda: rng.integers(2, queries, size=number), sequence_checksum)
        asked = slice(number + 1 + self.gap, 2 * number + 1 + self.gap)
        inputs, targets = blank(self.length)
        inputs[:number] = tokens
        inputs[number] = 1
        inputs[asked] = np.arange(queries, queries + number)
        targets[asked] = tokens
        return inputs, targets, number
