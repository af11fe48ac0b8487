"""In-context regression: fit a linear function to examples (arXiv 2208.01066), in tokens."""

import dataclasses

import numpy as np

from bmojo.data.source import check_number
from bmojo.data.synthetic import (
    Example,
    SyntheticSource,
    SyntheticTask,
    blank,
    choose,
    sequence_checksum,
)

__all__ = ["InContextRegressionConfig"]


@dataclasses.dataclass(frozen=True)
class InContextRegressionConfig(SyntheticTask):
    """Predict y = w x for new x from examples of x and y.

    A sequence shows n examples, each the d coordinates of x, then y; then it asks for the y
    of new x, each followed by a 0. The target at the last coordinate of a new x is its y;
    every other target is -1 and carries no loss. ``InContextRegressionConfig(length=16,
    num_examples=(3,), vocab_size=17, dimensions=2, queries=2)``, seed 0, train, example 0::

        inputs   7  6 14  5  3 11  3  1  9  1  1  0  2  7  0  0
        targets -1 -1 -1 -1 -1 -1 -1 -1 -1 -1  9 -1 -1 14 -1 -1

    Numbers from -1 to 1 are quantised to B = (V - 1) // 2 bins of one width; x has the tokens
    1 .. B, y the tokens B + 1 .. 2 B, both rising. A weight vector w is drawn for each example:
    uniform in its direction, with absolute values of sum 1. A coordinate of x is the middle of a
    bin, each as likely; noise is added to y, and y clipped, before it is quantised.

    Train and test never share the examples that a sequence shows, whatever the seed.

    Attributes:
      length: L, tokens of a sequence; zeros fill what is left at its end.
      num_examples: numbers of examples shown; each sequence draws one of them uniformly.
      vocab_size: V.
      dimensions: d, coordinates of x.
      queries: new x of a sequence.
      noise: standard deviation of the noise of y, shown or asked for.
    """

    length: int
    num_examples: tuple[int, ...]
    vocab_size: int = 33
    dimensions: int = 2
    queries: int = 4
    noise: float = 0.0

    least = {"length": 1, "vocab_size": 5, "dimensions": 1, "queries": 1}
    slices = "num_examples"

    def _check(self) -> None:
        check_number(self, "noise", lambda n: 0 <= n < float("inf"), "of at least 0", 0.1)
        most, each = max(self.num_examples), self.dimensions + 1
        shown = f"{most} examples and {self.queries} queries of {each} tokens"
        remedy = "num_examples, queries or dimensions"
        self.check_room(shown, (most + self.queries) * each, remedy)

    @property
    def bins(self) -> int:
        """B, bins of a number."""
        return (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        """Accuracy of always answering with the most frequent bin of y, by sampling."""
        rng = np.random.default_rng(0)
        weights = _weights(rng, 2**14, self.dimensions)
        x = rng.integers(self.bins, size=weights.shape)
        y = self.answer(weights, x, rng)
        return float(np.bincount(y, minlength=self.bins).max() / y.size)

    def middle(self, bins: np.ndarray) -> np.ndarray:
        """The numbers in the middle of bins 0 .. B - 1."""
        return (2 * bins + 1) / self.bins - 1

    def quantise(self, numbers: np.ndarray) -> np.ndarray:
        """The bins of numbers; a number out of range falls into the first or the last."""
        return np.clip((numbers + 1) / 2 * self.bins, 0, self.bins - 1).astype(np.int64)

    def answer(self, weights: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Bins of y for bins of x (..., d)."""
        y = (weights * self.middle(x)).sum(-1)
        return self.quantise(y + self.noise * rng.standard_normal(y.shape))

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        number = choose(rng, self.num_examples)
        rows = source.of_split(
            lambda: self._draw(rng, number + self.queries),
            lambda rows: sequence_checksum(rows[:number]),
        )
        inputs, targets = blank(self.length)
        inputs[: rows.size] = rows.ravel()
        answers = slice(number * rows.shape[1] + self.dimensions, rows.size, rows.shape[1])
        inputs[answers] = 0
        targets[answers.start - 1 : rows.size : rows.shape[1]] = rows[number:, -1]
        return inputs, targets, number

    def _draw(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Rows of tokens: x, then y."""
        x = rng.integers(self.bins, size=(number, self.dimensions))
        y = self.answer(_weights(rng, 1, self.dimensions), x, rng)
        return np.concatenate([1 + x, 1 + self.bins + y[:, None]], axis=1)


def _weights(rng: np.random.Generator, number: int, dimensions: int) -> np.ndarray:
    """Weight vectors (number, d) of random direction, with absolute values of sum 1."""
    weights = rng.standard_normal((number, dimensions))
    return weights / np.abs(weights).sum(1, keepdims=True)
