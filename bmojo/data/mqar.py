"""Multi-query associative recall (MQAR): the recall task of Zoology (arXiv 2312.04927)."""

import dataclasses
import operator
from typing import Any, SupportsIndex

import numpy as np

__all__ = ["MQARConfig", "MQARSource"]

SPLITS = ("train", "test")
FILLERS = ("zero", "random")
EXAMPLES = 2**48
"""Examples of a split: more than any run will ask for."""

TEST_SHARE = 2
"""One in this many of all possible sets of bindings belongs to the test split."""


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
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"MQAR.{field}: {value!r} is not an integer; give one")
            if value < least:
                raise ValueError(f"MQAR.{field}: {value} is too small; give at least {least}")
        pairs = self.num_pairs
        if not isinstance(pairs, tuple | list) or not pairs:
            raise TypeError(
                f"MQAR.num_pairs: {pairs!r} is not a tuple of numbers; "
                "write one, such as (8,) or (4, 8, 16)"
            )
        for number in pairs:
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"MQAR.num_pairs: {number!r} is not an integer; give integers")
            if number < 1:
                raise ValueError(f"MQAR.num_pairs: {number} is too small; give at least 1")
        object.__setattr__(self, "num_pairs", tuple(pairs))
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
        needed = 2 * most * (self.passes + 1)
        if self.length < needed:
            raise ValueError(
                f"MQAR.length: {most} pairs shown {self.passes} times and queried once need "
                f"{needed} tokens, got {self.length}; raise length to {needed} or lower num_pairs"
            )
        keys = self.vocab_size // 2 - 1
        if keys < most:
            raise ValueError(
                f"MQAR.vocab_size: {self.vocab_size} tokens hold {keys} keys, fewer than the "
                f"{most} pairs; raise vocab_size to {2 * most + 2} or lower num_pairs"
            )

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


class MQARSource:
    """Examples made on demand: number i is a function of config, seed, split and i alone.

    An item holds ``inputs`` (L,) and ``targets`` (L,), int32, and ``group``, the number of
    pairs.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def __init__(self, config: MQARConfig, seed: int, split: str):
        if split not in SPLITS:
            raise ValueError(f"split: {split!r} is unknown; choose 'train' or 'test'")
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; give one of at least 0")
        self.config = config
        self.seed = seed
        self.split = split
        mixed = _mix(np.arange(2 * config.vocab_size, dtype=np.uint64))
        self._key_codes, self._value_codes = mixed[0::2], mixed[1::2] | np.uint64(1)
        self._race = {number: self._slot_scale(number) for number in config.num_pairs}

    def __len__(self) -> int:
        return EXAMPLES

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r}, seed={self.seed}, split={self.split!r})"

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = operator.index(index)
        if not 0 <= index < EXAMPLES:
            raise IndexError(f"example {index} is not in 0 .. {EXAMPLES - 1}")
        config = self.config
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        number = config.num_pairs[rng.integers(len(config.num_pairs))]
        keys, values = self._bindings(rng, number)

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
        return {"inputs": inputs, "targets": targets, "group": np.int32(number)}

    def _slot_scale(self, number: int) -> np.ndarray:
        """Mean arrival time 1/p of each slot behind ``number`` pairs."""
        slots = (self.config.length - 2 * number * self.config.passes) // 2
        return np.arange(1, slots + 1, dtype=np.float64) ** (1 - self.config.power)

    def _bindings(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of this split, drawn again until their checksum says so."""
        half, wanted = self.config.vocab_size // 2, self.split == "test"
        while True:
            keys = 1 + _distinct(rng, half - 1, number)
            values = half + _distinct(rng, self.config.vocab_size - half, number)
            if self._in_test(keys, values) == wanted:
                return keys, values

    def _in_test(self, keys: np.ndarray, values: np.ndarray) -> bool:
        """Whether a set of bindings belongs to the test split, in whatever order it comes."""
        checksum = int((self._key_codes[keys] * self._value_codes[values]).sum())
        return checksum < 2**64 // TEST_SHARE


def _distinct(rng: np.random.Generator, size: int, number: int) -> np.ndarray:
    """``number`` different integers below ``size`` in random order."""
    if size <= 512:
        return rng.permutation(size)[:number]
    return rng.choice(size, number, replace=False)


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 generator's output function: scatters integers over 64 bits."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
