"""In-context regression: fit a linear function to examples (arXiv 2208.01066), in tokens."""

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

__all__ = ["InContextRegressionConfig", "InContextRegressionSource"]


@dataclasses.dataclass(frozen=True)
class InContextRegressionConfig:
    """Predict y = w x for new x from examples of x and y.

    A sequence shows n examples, each the d coordinates of x, then y; then it asks for the y
    of new x, each followed by a 0. The target at the last coordinate of a new x is its y;
    every other target is -1 and carries no loss. ``InContextRegressionConfig(length=16,
    num_examples=(3,), vocab_size=17, dimensions=2, queries=2)``, seed 0, train, example 0::

        inputs   7  6 14  5  3 11  3  1  9  1  1  0  2  7  0  0
        targets -1 -1 -1 -1 -1 -1 -1 -1 -1 -1  9 -1 -1 14 -1 -1

    Numbers from -1 to 1 are quantised to B = (V - 1) // 2 bins of one width; x has the tokens
    1 .. B, y the tokens B + 1 .. 2 B, both rising. A weight vector w is drawn for each
    example: uniform in its direction, with absolute values of sum 1, so that y is never out
    of range. A coordinate of x is the middle of a bin, each as likely; y is computed from
    these middles, and noise is added and y clipped before it is quantised.

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

    def __post_init__(self):
        name = "InContextRegression"
        fields = (("length", 1), ("vocab_size", 5), ("dimensions", 1), ("queries", 1))
        for field, least in fields:
            check_integer(name, field, getattr(self, field), least)
        choices = check_choices(name, "num_examples", self.num_examples)
        object.__setattr__(self, "num_examples", choices)
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float):
            raise TypeError(f"{name}.noise: {self.noise!r} is not a number; give one, such as 0.1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(
                f"{name}.noise: {self.noise} is out of range; give a number of at least 0"
            )
        most = max(choices)
        needed = (most + self.queries) * (self.dimensions + 1)
        shown = f"{most} examples and {self.queries} queries of {self.dimensions + 1} tokens"
        check_room(name, self.length, shown, needed, "num_examples, queries or dimensions")

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

    @property
    def slices(self) -> str:
        """What ``group`` counts."""
        return "num_examples"

    def middle(self, bins: np.ndarray) -> np.ndarray:
        """The numbers in the middle of bins 0 .. B - 1."""
        return (2 * bins + 1) / self.bins - 1

    def quantise(self, numbers: np.ndarray) -> np.ndarray:
        """The bins of numbers; what is out of range falls into the first or the last."""
        return np.clip((numbers + 1) / 2 * self.bins, 0, self.bins - 1).astype(np.int64)

    def answer(self, weights: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Bins of y for bins of x (..., d)."""
        y = (weights * self.middle(x)).sum(-1)
        return self.quantise(y + self.noise * rng.standard_normal(y.shape))

    def source(self, seed: int, split: str) -> "InContextRegressionSource":
        """All examples of a split: 'train' or 'test'."""
        return InContextRegressionSource(self, seed, split)


class InContextRegressionSource(SyntheticSource[InContextRegressionConfig]):
    """Sequences of in-context regression; ``group`` is the number of examples shown.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and number of examples shown of one sequence."""
        config = self.config
        number = choose(rng, config.num_examples)
        rows = self.of_split(
            lambda: self._draw(rng, number + config.queries),
            lambda rows: sequence_checksum(rows[:number]),
        )
        inputs = np.zeros(config.length, np.int32)
        targets = np.full(config.length, -1, np.int32)
        inputs[: rows.size] = rows.ravel()
        answers = slice(number * rows.shape[1] + config.dimensions, rows.size, rows.shape[1])
        inputs[answers] = 0
        targets[answers.start - 1 : rows.size : rows.shape[1]] = rows[number:, -1]
        return inputs, targets, number

    def _draw(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Rows of tokens: x, then y."""
        config = self.config
        x = rng.integers(config.bins, size=(number, config.dimensions))
        y = config.answer(_weights(rng, 1, config.dimensions), x, rng)
        return np.concatenate([1 + x, 1 + config.bins + y[:, None]], axis=1)


def _weights(rng: np.random.Generator, number: int, dimensions: int) -> np.ndarray:
    """Weight vectors (number, d) of random direction, with absolute values of sum 1."""
    weights = rng.standard_normal((number, dimensions))
    return weights / np.abs(weights).sum(1, keepdims=True)
