"""Synthetic tasks: frozen dataclasses that make an example from a random generator.

The split of an example is a checksum of its content, so that train and test are disjoint
whatever the seed.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from bmojo.data.source import SPLITS, Config, Source, check_integer, is_integer, name_of

__all__ = [
    "Bindings", "Example", "SyntheticSource", "SyntheticTask", "binding_checksum", "bindings_of",
    "blank", "choose", "repeated", "sequence_checksum",
]  # fmt: skip

TEST_SHARE = 2
"""One in this many of all possible contents belongs to the test split."""

DRAWS = 1000
"""After so many draws of the other split there is none of the wanted one."""

Example = tuple[np.ndarray, np.ndarray, int]
"""Inputs (L,), targets (L,) and group."""

Content = TypeVar("Content")


class SyntheticTask(abc.ABC):
    """Base of the configs of tasks; subclasses are frozen dataclasses.

    ``least`` has the smallest value of each field that is an integer. ``slices`` is the quantity
    that ``group`` counts; a field of that name is a tuple of positive integers, of which each
    example draws one. A field of the wrong type is a TypeError, one out of range a ValueError.
    """

    least: ClassVar[Mapping[str, int]]
    slices: ClassVar[str]
    length: int
    vocab_size: int

    def __post_init__(self) -> None:
        for field, least in self.least.items():
            check_integer(self, field, least)
        if self.slices in self.__dict__:
            object.__setattr__(self, self.slices, self._choices(getattr(self, self.slices)))
        self._check()

    def _choices(self, values: Any) -> tuple[int, ...]:
        where = f"{name_of(self)}.{self.slices}"
        if not isinstance(values, tuple | list) or not values:
            message = "is not a tuple of numbers; write one, such as (8,) or (4, 8, 16)"
            raise TypeError(f"{where}: {values!r} {message}")
        for number in values:
            if not is_integer(number):
                raise TypeError(f"{where}: {number!r} is not an integer; give integers")
            if number < 1:
                raise ValueError(f"{where}: {number} is too small; give at least 1")
        return tuple(values)

    def _check(self) -> None:  # noqa: B027
        """Refuse fields that do not fit each other."""

    def check_room(self, content: str, needed: int, remedy: str) -> None:
        """Refuse a ``length`` below that needed for the content."""
        if self.length < needed:
            raise ValueError(
                f"{name_of(self)}.length: {content} need {needed} tokens, got {self.length}; raise "
                f"length to {needed} or lower {remedy}"
            )

    def check_pairs(self, vocabulary: str, keys: int, most: int, remedy: str) -> None:
        """Refuse a vocabulary that makes fewer ``keys`` than the ``most`` pairs of an example."""
        if keys < most:
            raise ValueError(
                f"{name_of(self)}.vocab_size: {vocabulary} {keys} keys, fewer than the {most} "
                f"pairs; {remedy}"
            )

    @property
    @abc.abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing."""

    @abc.abstractmethod
    def _example(self, rng: np.random.Generator, source: "SyntheticSource") -> Example:
        """One example, whose content comes from ``source.of_split``."""

    def source(self, seed: int, split: str) -> "SyntheticSource":
        """All examples of a split: 'train' or 'test'."""
        return SyntheticSource(self, seed, split)


class SyntheticSource(Source[Config]):
    """Examples made on demand: number i is a function of config, seed, split and i alone.

    An item holds ``inputs`` (L,) and ``targets`` (L,), int32, and ``group``.
    """

    def item(self, index: int) -> dict[str, Any]:
        """Example ``index``."""
        inputs, targets, group = self._example(self.rng(index))
        return {"inputs": inputs, "targets": targets, "group": np.int32(group)}

    def rng(self, index: int) -> np.random.Generator:
        """The generator of example ``index``."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), index])

    def _example(self, rng: np.random.Generator) -> Example:
        return self.config._example(rng, self)  # type: ignore[attr-defined]

    def of_split(self, draw: Callable[[], Content], checksum: Callable[[Content], int]) -> Content:
        """The first of repeated draws whose ``checksum``, below 2^64, is of this source's split.

        Raises:
          ValueError: there is so little content that the other split holds all of it.
        """
        for _ in range(DRAWS):
            content = draw()
            if (checksum(content) < 2**64 // TEST_SHARE) == (self.split == "test"):
                return content
        raise ValueError(
            f"{name_of(self.config)}.vocab_size: too few different examples are possible to have "
            f"some in the {self.split} split; raise vocab_size"
        )


class Bindings:
    """Keys from 1 .. V//2 - 1, each with a value from V//2 .. V - 1, drawn without replacement."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        tokens = np.arange(vocab_size, dtype=np.uint64)
        self._key_codes, self._value_codes = _codes(tokens, tokens)

    def draw(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """``number`` keys and their values."""
        half = self.vocab_size // 2
        keys = 1 + _distinct(rng, half - 1, number)
        return keys, half + _distinct(rng, self.vocab_size - half, number)

    def checksum(self, bindings: tuple[np.ndarray, np.ndarray]) -> int:
        """:func:`binding_checksum` of tokens."""
        keys, values = bindings
        return int((self._key_codes[keys] * self._value_codes[values]).sum())


bindings_of = functools.lru_cache(maxsize=16)(Bindings)
"""The bindings of a vocabulary, made once."""


def binding_checksum(keys: np.ndarray, values: np.ndarray) -> int:
    """Checksum of a set of bindings between keys and values (uint64), whatever their order."""
    key_codes, value_codes = _codes(keys, values)
    return int((key_codes * value_codes).sum())


def sequence_checksum(tokens: np.ndarray) -> int:
    """Checksum of tokens in their order."""
    places = np.arange(tokens.size, dtype=np.uint64) << np.uint64(32)
    return int(_mix(places + tokens.ravel().astype(np.uint64)).sum())


def choose(rng: np.random.Generator, choices: tuple[int, ...]) -> int:
    """One of the choices, each as likely."""
    return choices[rng.integers(len(choices))]


def blank(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of zeros and targets of -1, int32."""
    return np.zeros(length, np.int32), np.full(length, -1, np.int32)


def repeated(entries: np.ndarray) -> np.ndarray:
    """Whether each entry occurs before its place."""
    found = np.ones(entries.size, bool)
    found[np.unique(entries, return_index=True)[1]] = False
    return found


def _distinct(rng: np.random.Generator, size: int, number: int) -> np.ndarray:
    """``number`` different integers below ``size`` in random order."""
    if size <= 512:
        return rng.permutation(size)[:number]
    return rng.choice(size, number, replace=False)


def _codes(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _mix(2 * keys), _mix(2 * values + np.uint64(1)) | np.uint64(1)


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 generator's output function: scatters integers over 64 bits."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
