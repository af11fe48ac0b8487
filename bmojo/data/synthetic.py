"""What the synthetic tasks share: checks of fields, examples by number, and their split.

A task is a frozen config, which checks itself with the ``check_*`` functions here, and a
:class:`SyntheticSource`, which makes one example from a random generator. Which split an
example belongs to is decided by a checksum of its content, so that train and test are
disjoint whatever the seed.
"""

import abc
import operator
from collections.abc import Callable
from typing import Any, Generic, SupportsIndex, TypeVar

import numpy as np

__all__ = [
    "Bindings",
    "SyntheticSource",
    "binding_checksum",
    "check_choices",
    "check_integer",
    "check_pairs",
    "check_room",
    "check_share",
    "choose",
    "sequence_checksum",
]

SPLITS = ("train", "test")
EXAMPLES = 2**48
"""Examples of a split: more than any run will ask for."""

TEST_SHARE = 2
"""One in this many of all possible contents belongs to the test split."""

DRAWS = 1000
"""After so many draws of the other split there is none of the wanted one."""

Config = TypeVar("Config")
Content = TypeVar("Content")


def check_integer(task: str, field: str, value: Any, least: int) -> None:
    """Refuse what is not an integer of at least ``least``.

    Raises:
      TypeError: not an integer.
      ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{task}.{field}: {value!r} is not an integer; give one")
    if value < least:
        raise ValueError(f"{task}.{field}: {value} is too small; give at least {least}")


def check_choices(task: str, field: str, values: Any) -> tuple[int, ...]:
    """A tuple of positive integers, of which each example draws one.

    Raises:
      TypeError: not a tuple, or not of integers.
      ValueError: an integer is too small.
    """
    if not isinstance(values, tuple | list) or not values:
        raise TypeError(
            f"{task}.{field}: {values!r} is not a tuple of numbers; "
            "write one, such as (8,) or (4, 8, 16)"
        )
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{task}.{field}: {number!r} is not an integer; give integers")
        if number < 1:
            raise ValueError(f"{task}.{field}: {number} is too small; give at least 1")
    return tuple(values)


def check_share(task: str, field: str, value: Any) -> None:
    """Refuse what is not a number from 0 up to, but not including, 1.

    Raises:
      TypeError: not a number.
      ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{task}.{field}: {value!r} is not a number; give one, such as 0.2")
    if not 0 <= value < 1:
        raise ValueError(
            f"{task}.{field}: {value} is out of range; give a number of at least 0 and below 1"
        )


def check_room(task: str, length: int, what: str, needed: int, remedy: str) -> None:
    """Refuse a sequence that is too short for ``what``.

    Raises:
      ValueError: ``length`` is below ``needed``.
    """
    if length < needed:
        raise ValueError(
            f"{task}.length: {what} need {needed} tokens, got {length}; raise length to {needed} "
            f"or lower {remedy}"
        )


def check_pairs(task: str, vocabulary: str, keys: int, most: int, remedy: str) -> None:
    """Refuse a vocabulary that has fewer keys than an example has pairs.

    Args:
      task: whose.
      vocabulary: what holds or makes the keys, with a verb.
      keys: how many there are.
      most: pairs of an example.
      remedy: what to raise or lower.

    Raises:
      ValueError: ``keys`` is below ``most``.
    """
    if keys < most:
        raise ValueError(
            f"{task}.vocab_size: {vocabulary} {keys} keys, fewer than the {most} pairs; {remedy}"
        )


class SyntheticSource(abc.ABC, Generic[Config]):
    """Examples made on demand: number i is a function of config, seed, split and i alone.

    An item holds ``inputs`` (L,) and ``targets`` (L,), int32, and ``group``, what the task
    counts. A subclass makes one in :meth:`example`.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def __init__(self, config: Config, seed: int, split: str):
        if split not in SPLITS:
            raise ValueError(f"split: {split!r} is unknown; choose 'train' or 'test'")
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; give one of at least 0")
        self.config = config
        self.seed = seed
        self.split = split

    def __len__(self) -> int:
        return EXAMPLES

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r}, seed={self.seed}, split={self.split!r})"

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = operator.index(index)
        if not 0 <= index < EXAMPLES:
            raise IndexError(f"example {index} is not in 0 .. {EXAMPLES - 1}")
        inputs, targets, group = self.example(self.rng(index))
        return {"inputs": inputs, "targets": targets, "group": np.int32(group)}

    def rng(self, index: int) -> np.random.Generator:
        """What example ``index`` is made from."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index])

    @abc.abstractmethod
    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Inputs, targets and group of one example."""

    def of_split(self, draw: Callable[[], Content], checksum: Callable[[Content], int]) -> Content:
        """The first of repeated draws that belongs to this source's split.

        Args:
          draw: draws content.
          checksum: an integer below 2^64 made from content alone.

        Raises:
          ValueError: there is so little content that the other split holds all of it.
        """
        for _ in range(DRAWS):
            content = draw()
            if (checksum(content) < 2**64 // TEST_SHARE) == (self.split == "test"):
                return content
        task = type(self.config).__name__.removesuffix("Config")
        raise ValueError(
            f"{task}.vocab_size: too few different examples are possible to have some in the "
            f"{self.split} split; raise vocab_size"
        )


class Bindings:
    """Keys, each with a value: drawn at random, and given a checksum.

    Keys come from 1 .. V//2 - 1, values from V//2 .. V - 1, each without replacement.

    Args:
      vocab_size: V.
    """

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        tokens = np.arange(vocab_size, dtype=np.uint64)
        self._key_codes, self._value_codes = _key_codes(tokens), _value_codes(tokens)

    def draw(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """``number`` keys and their values."""
        half = self.vocab_size // 2
        keys = 1 + _distinct(rng, half - 1, number)
        return keys, half + _distinct(rng, self.vocab_size - half, number)

    def checksum(self, bindings: tuple[np.ndarray, np.ndarray]) -> int:
        """Of the set of bindings: their order plays no part."""
        keys, values = bindings
        return int((self._key_codes[keys] * self._value_codes[values]).sum())


def binding_checksum(keys: np.ndarray, values: np.ndarray) -> int:
    """Checksum of a set of bindings between keys and values, given as uint64.

    Their order plays no part. Of tokens it is the same number as :meth:`Bindings.checksum`.
    """
    return int((_key_codes(keys) * _value_codes(values)).sum())


def sequence_checksum(tokens: np.ndarray) -> int:
    """Checksum of tokens in their order."""
    places = np.arange(tokens.size, dtype=np.uint64) << np.uint64(32)
    return int(_mix(places + tokens.ravel().astype(np.uint64)).sum())


def choose(rng: np.random.Generator, choices: tuple[int, ...]) -> int:
    """One of the choices, each as likely."""
    return choices[rng.integers(len(choices))]


def _distinct(rng: np.random.Generator, size: int, number: int) -> np.ndarray:
    """``number`` different integers below ``size`` in random order."""
    if size <= 512:
        return rng.permutation(size)[:number]
    return rng.choice(size, number, replace=False)


def _key_codes(keys: np.ndarray) -> np.ndarray:
    return _mix(2 * keys)


def _value_codes(values: np.ndarray) -> np.ndarray:
    return _mix(2 * values + np.uint64(1)) | np.uint64(1)


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 generator's output function: scatters integers over 64 bits."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
