"""Multi-query associative recall (MQAR): the recall task of Zoology (arXiv 2312.04927)."""

import dataclasses

import numpy as np

from bmojo.data.synthetic import (
    Bindings,
    SyntheticSource,
    check_choices,
    check_integer,
    check_pairs,
    check_room,
    choose,
)

__all__ = ["MQARConfig", "MQARSource"]

FILLERS = ("zero", "random")


@dataclasses.dataclass(frozen=True)
class MQARConfig:
    """Recall values by their keys, several times in one sequence.

    A sequence shows key-value pairs, then asks for each key once; the target at a queried
    key is its value, every other target is -1 and carries no loss. ``MQARConfig(length=16,
    num_pairs=(2,), vocab_size=12)``, seed 0, train, example 1::

        inputs   5  7  2  9  0  0  2  0  0  0  5  0  0  0  0  0
        targets -1 -1 -1 -1 -1 -1  9 -1 -1 -1  7 -1 -1 -1 -1 -1

    Keys come from 1 .. V//2 - 1, values from V//2 .. V - 1, each without replacement. After
    the pairs, the rest of the sequence has slots two tokens apart; a key's query is put into
    the slot g = 0, 1, ... with a probability proportional to (g + 1)^(power - 1), without
    replacement: queries crowd behind the pairs and thin out in a power law. A power of 1
    spreads them evenly.

    Whether the bindings of an example belong to the train or to the test split is decided
    by a checksum of the bindings alone (of the set: their order plays no part), whatever the
    seed, the length and the filler, so that no set of bindings is ever in both.

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

    def __post_init__(self):
        for field, least in (("length", 1), ("vocab_size", 4), ("passes", 1)):
            check_integer("MQAR", field, getattr(self, field), least)
        object.__setattr__(self, "num_pairs", check_choices("MQAR", "num_pairs", self.num_pairs))
        if isinstance(self.power, bool) or not isinstance(self.power, int | float):
            raise TypeError(f"MQAR.power: {self.power!r} is not a number; give one, such as 0.01")
        if not 0 < self.power < float("inf"):
            raise ValueError(f"MQAR.power: {self.power} is out of range; give a number above 0")
        if self.filler not in FILLERS:
            raise ValueError(f"MQAR.filler: {self.filler!r} is unknown; choose 'zero' or 'random'")
        self._check_room()

    def _check_room(self) -> None:
        """Refuse pairs that neither the sequence nor the vocabulary can hold."""
        most = max(self.num_pairs)
        shown = f"{most} pairs shown {self.passes} times and queried once"
        check_room("MQAR", self.length, shown, 2 * most * (self.passes + 1), "num_pairs")
        keys, remedy = self.vocab_size // 2 - 1, f"raise vocab_size to {2 * most + 2}"
        tokens = f"{self.vocab_size} tokens hold"
        check_pairs("MQAR", tokens, keys, most, f"{remedy} or lower num_pairs")

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        return 1 / (self.vocab_size - self.vocab_size // 2)

    @property
    def slices(self) -> str:
        """What ``group`` counts."""
        return "num_pairs"

    def source(self, seed: int, split: str) -> "MQARSource":
        """All examples of a split: 'train' or 'test'."""
        return MQARSource(self, seed, split)


class MQARSource(SyntheticSource[MQARConfig]):
    """Examples of MQAR; ``group`` is the number of pairs.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def __init__(self, config: MQARConfig, seed: int, split: str):
        super().__init__(config, seed, split)
        self._bindings = Bindings(config.vocab_size)
        self._race = {number: self._slot_scale(number) for number in config.num_pairs}

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and number of pairs of one example."""
        config, bindings = self.config, self._bindings
        number = choose(rng, config.num_pairs)
        keys, values = self.of_split(lambda: bindings.draw(rng, number), bindings.checksum)

        context = 2 * number * config.passes
        inputs = np.zeros(config.length, np.int32)
        shown = inputs[:context].reshape(config.passes, number, 2)
        shown[:, :, 0] = keys
        shown[:, :, 1] = values

        # The n first arrivals of independent exponential clocks with rates p are n draws
        # without replacement with probabilities p, in the order of drawing.
        arrivals = rng.standard_exponential(len(self._race[number])) * self._race[number]
        queried = context + 2 * np.argsort(arrivals)[:number]
        inputs[queried] = keys
        targets = np.full(config.length, -1, np.int32)
        targets[queried] = values

        if config.filler == "random":
            empty = inputs == 0
            inputs[empty] = rng.integers(config.vocab_size, size=np.count_nonzero(empty))
        return inputs, targets, number

    def _slot_scale(self, number: int) -> np.ndarray:
        """Mean arrival time 1/p of each slot behind ``number`` pairs."""
        slots = (self.config.length - 2 * number * self.config.passes) // 2
        return np.arange(1, slots + 1, dtype=np.float64) ** (1 - self.config.power)
