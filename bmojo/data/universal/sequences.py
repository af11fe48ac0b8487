"""Base of sources with a known predictor: every symbol is a target, and codes in bits."""

import abc
import dataclasses
from collections.abc import Sized
from typing import Generic, TypeVar

import numpy as np

from bmojo.data.source import Config
from bmojo.data.synthetic import SyntheticSource

__all__ = ["SequenceSource", "Sequences", "chosen_bits", "contexts"]

Origin = TypeVar("Origin", bound=Sized)


@dataclasses.dataclass(frozen=True)
class Sequences(Generic[Origin]):
    """Symbols (n, L) of sequences, 0 .. A - 1, the groups (n,) of their sources, and these."""

    symbols: np.ndarray
    groups: np.ndarray
    origins: tuple[Origin, ...]


class SequenceSource(SyntheticSource[Config], Generic[Config, Origin]):
    """Sequences of symbols, the tokens 0 .. A - 1, each from a source of its own.

    Inputs are the symbols moved by one place behind the begin token A, targets are all symbols.
    """

    alphabet: int
    """A, how many different symbols there are."""

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[Origin, np.ndarray]:
        """A source of this split, and a sequence of it (L,)."""

    @abc.abstractmethod
    def oracle_bits(self, sequences: Sequences[Origin]) -> np.ndarray:
        """Bits of each symbol (n, L), given those before, under the best known predictor."""

    @abc.abstractmethod
    def source_bits(self, sequences: Sequences[Origin]) -> np.ndarray:
        """Bits of each symbol (n, L) under the source that made it."""

    def _example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        origin, symbols = self.draw(rng)
        targets = symbols.astype(np.int32)
        inputs = np.empty_like(targets)
        inputs[0], inputs[1:] = self.alphabet, targets[:-1]
        return inputs, targets, _group(origin)

    def sequences(self, count: int) -> Sequences[Origin]:
        """The first ``count`` examples, with their sources."""
        origins, symbols = zip(*(self.draw(self.rng(index)) for index in range(count)), strict=True)
        groups = np.asarray([_group(origin) for origin in origins])
        return Sequences(np.stack(symbols), groups, origins)


def _group(origin: Sized) -> int:
    """The size of a source, rounded up to a power of two."""
    return 1 << (len(origin) - 1).bit_length()


def contexts(symbols: np.ndarray, depth: int, alphabet: int = 2) -> np.ndarray:
    """The ``depth`` symbols before each place of symbols (n, L), as one number below A^D.

    Before the first one there are zeros. The last symbol is the lowest digit, so that the d last
    symbols are the remainder by A^d.
    """
    found = np.zeros(symbols.shape, np.int64)
    for back in range(1, min(depth, symbols.shape[1] - 1) + 1):
        found[:, back:] += symbols[:, :-back].astype(np.int64) * alphabet ** (back - 1)
    return found


def chosen_bits(probabilities: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """Bits (n, L) of symbols (n, L) that have these probabilities (n, L, A)."""
    chosen = np.take_along_axis(probabilities, symbols[..., None].astype(np.int64), axis=-1)
    return -np.log2(chosen[..., 0])
