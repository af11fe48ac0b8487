"""Multi-query associative recall (MQAR): the recall task of Zoology (arXiv 2312.04927)."""

import dataclasses
import functools

import numpy as np

from bmojo.data.source import check_number
from bmojo.data.synthetic import Example, SyntheticSource, SyntheticTask, bindings_of, blank, choose

__all__ = ["MQARConfig"]


@dataclasses.dataclass(frozen=True)
class MQARConfig(SyntheticTask):
    """Recall values by their keys, several times in one sequence.

    A sequence shows key-value pairs, then asks for each key once; the target at a queried
    key is its value, every other target is -1 and carries no loss. ``MQARConfig(length=16,
    num_pairs=(2,), vocab_size=12)``, seed 0, train, example 1::

        inputs   5  7  2  9  0  0  2  0  0  0  5  0  0  0  0  0
        targets -1 -1 -1 -1 -1 -1  9 -1 -1 -1  7 -1 -1 -1 -1 -1

    Keys come from 1 .. V//2 - 1, values from V//2 .. V - 1, each without replacement. After the
    pairs there are slots two tokens apart; a key's query is put into the slot g = 0, 1, ... with
    a probability proportional to (g + 1)^(power - 1), without replacement: queries thin out in a
    power law. A power of 1 spreads them evenly.

    A checksum of the set of bindings alone decides their split, whatever the seed, the length
    and the filler: no set of bindings is ever in both.

    Attributes:
      length: L, tokens of a sequence.
      num_pairs: numbers of pairs; each example draws one of them uniformly.
      vocab_size: V.
      power: exponent of the gaps.
      filler: 'zero', or 'random': tokens drawn from the whole vocabulary instead of zeros.
      passes: how often the pairs are shown before the queries.
    """

    length: int
    num_pairs: tuple[int, ...]
    vocab_size: int = 256
    power: float = 0.01
    filler: str = "zero"
    passes: int = 1

    least = {"length": 1, "vocab_size": 4, "passes": 1}
    slices = "num_pairs"

    def _check(self) -> None:
        check_number(self, "power", lambda power: 0 < power < float("inf"), "above 0", 0.01)
        if self.filler not in ("zero", "random"):
            raise ValueError(f"MQAR.filler: {self.filler!r} is unknown; choose 'zero' or 'random'")
        most = max(self.num_pairs)
        shown = f"{most} pairs shown {self.passes} times and queried once"
        self.check_room(shown, 2 * most * (self.passes + 1), "num_pairs")
        keys, remedy = self.vocab_size // 2 - 1, f"raise vocab_size to {2 * most + 2}"
        tokens = f"{self.vocab_size} tokens hold"
        self.check_pairs(tokens, keys, most, f"{remedy} or lower num_pairs")

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        return 1 / (self.vocab_size - self.vocab_size // 2)

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        bindings = bindings_of(self.vocab_size)
        number = choose(rng, self.num_pairs)
        keys, values = source.of_split(lambda: bindings.draw(rng, number), bindings.checksum)

        context = 2 * number * self.passes
        inputs, targets = blank(self.length)
        shown = inputs[:context].reshape(self.passes, number, 2)
        shown[:, :, 0] = keys
        shown[:, :, 1] = values

        # The n first arrivals of independent exponential clocks with rates p are n draws
        # without replacement with probabilities p, in the order of drawing.
        means = _slot_scale((self.length - context) // 2, self.power)
        arrivals = rng.standard_exponential(means.size) * means
        queried = context + 2 * np.argsort(arrivals)[:number]
        inputs[queried] = keys
        targets[queried] = values

        if self.filler == "random":
            empty = inputs == 0
            inputs[empty] = rng.integers(self.vocab_size, size=np.count_nonzero(empty))
        return inputs, targets, number


@functools.lru_cache(maxsize=32)
def _slot_scale(slots: int, power: float) -> np.ndarray:
    """Mean arrival time 1/p of each slot behind the pairs."""
    return np.arange(1, slots + 1, dtype=np.float64) ** (1 - power)
