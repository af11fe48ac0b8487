"""Synthetic tasks of MAD (arXiv 2403.17844), in which every example checks one ability."""

import dataclasses
import functools
import math

import numpy as np

from bmojo.data.source import check_share
from bmojo.data.synthetic import (
    Example,
    SyntheticSource,
    SyntheticTask,
    binding_checksum,
    bindings_of,
    blank,
    choose,
    repeated,
    sequence_checksum,
)

__all__ = [
    "CompressionConfig", "FuzzyMQARConfig", "MemorizationConfig", "NoisyMQARConfig",
    "SelectiveCopyingConfig",
]  # fmt: skip


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

    MAD decodes each token from one vector, the model's output at the compression token. Here
    queries are answered from all that the model keeps: attention that reaches back can copy the
    data tokens. A gap of at least the window takes them out of its reach (a stack of l windows
    reaches l times as far). Train and test never share data tokens in one order.

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

    def _check(self) -> None:
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

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
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


@dataclasses.dataclass(frozen=True)
class FuzzyMQARConfig(SyntheticTask):
    """Recall values of several tokens by keys of several tokens.

    A sequence is one pair after the other, key before value. Whenever a key comes back, the
    target at its last token is the first token of its value, and the target at each token of
    the value is the one behind it; every other target is -1 and carries no loss.
    ``FuzzyMQARConfig(length=24, num_pairs=(2,), vocab_size=12, key_tokens=2,
    value_tokens=2)``, seed 0, train, example 0::

        inputs   2  9  2  9  1  5  8 11  1  5  8 11  2  9  2  9  1  5  8 11  2  9  0  0
        targets -1 -1  9 -1 -1 -1 -1 -1 -1  8 11 -1  9 -1  9 -1 -1  8 11 -1  9 -1 -1 -1

    Key tokens are 1 .. V//2 - 1, value tokens V//2 .. V - 1, so that a key ends where a value
    begins. Each key has 1 .. key_tokens tokens and each value 1 .. value_tokens, every
    number as likely, and no token twice; keys differ, values need not. Every pair of an
    example is shown at least once; beyond that keys come at random until one does not fit,
    and 0 fills the rest. MAD draws all of them at random, asks for the longest keys
    alone when it tests, and fills in front. Train and test never share a set of bindings.

    Attributes:
      length: L, tokens of a sequence.
      num_pairs: numbers of pairs; each example draws one of them uniformly.
      vocab_size: V.
      key_tokens: most tokens of a key.
      value_tokens: most tokens of a value.
    """

    length: int
    num_pairs: tuple[int, ...]
    vocab_size: int = 64
    key_tokens: int = 3
    value_tokens: int = 3

    least = {"length": 1, "vocab_size": 4, "key_tokens": 1, "value_tokens": 1}
    slices = "num_pairs"

    def _check(self) -> None:
        most, longest = max(self.num_pairs), self.key_tokens + self.value_tokens
        shown = f"{most} pairs of up to {longest} tokens and a query"
        self.check_room(shown, (most + 1) * longest, "num_pairs")
        half = self.vocab_size // 2
        for field, tokens in (("key_tokens", half - 1), ("value_tokens", self.vocab_size - half)):
            if getattr(self, field) > tokens:
                raise ValueError(
                    f"FuzzyMQAR.{field}: {getattr(self, field)} different tokens are more than the "
                    f"{tokens} that a vocabulary of {self.vocab_size} has for them; lower {field} "
                    "or raise vocab_size"
                )
        keys = sum(math.perm(half - 1, size) for size in range(1, self.key_tokens + 1))
        remedy = "raise vocab_size or key_tokens, or lower num_pairs"
        self.check_pairs(f"{self.vocab_size} tokens make", keys, most, remedy)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all tokens of values."""
        return 1 / (self.vocab_size - self.vocab_size // 2)

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        number = choose(rng, self.num_pairs)
        keys, values = source.of_split(lambda: self._draw(rng, number), self._checksum)
        sizes = (keys > 0).sum(1) + (values > 0).sum(1)

        room = self.length - sizes.sum()
        again = rng.integers(number, size=room // 2)
        again = again[: np.searchsorted(np.cumsum(sizes[again]), room, side="right")]
        order = rng.permutation(np.concatenate([np.arange(number), again]))

        tokens = np.concatenate([keys, values], axis=1)[order]
        answers = np.concatenate([np.full_like(keys, -1), values], axis=1)[order]
        answers[~repeated(order)] = -1
        there = tokens > 0
        inputs, targets = blank(self.length)
        shown = sizes[order].sum()
        inputs[:shown] = tokens[there]
        targets[: shown - 1] = answers[there][1:]  # at the token before each
        return inputs, targets, number

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Different keys, and values, a row of tokens each with zeros behind."""
        half = self.vocab_size // 2
        keys = np.zeros((0, self.key_tokens), np.int64)
        while len(keys) < number:
            keys = np.concatenate([keys, _motifs(rng, 2 * number, 1, half, self.key_tokens)])
            first = np.unique(_numbers(keys, self.vocab_size), return_index=True)[1]
            keys = keys[np.sort(first)]
        values = _motifs(rng, number, half, self.vocab_size, self.value_tokens)
        return keys[:number], values

    def _checksum(self, bindings: tuple[np.ndarray, np.ndarray]) -> int:
        keys, values = (_numbers(motifs, self.vocab_size) for motifs in bindings)
        return binding_checksum(keys, values)


def _motifs(
    rng: np.random.Generator, number: int, first: int, end: int, longest: int
) -> np.ndarray:
    """Rows of 1 .. ``longest`` different tokens of first .. end - 1, with zeros behind."""
    tokens = np.argsort(rng.random((number, end - first)), axis=1)[:, :longest]
    sizes = rng.integers(1, longest + 1, size=(number, 1))
    return np.where(np.arange(longest) < sizes, first + tokens, 0)


def _numbers(motifs: np.ndarray, vocab_size: int) -> np.ndarray:
    """Each row of tokens as one number, modulo 2^64."""
    places = [pow(vocab_size, place, 2**64) for place in range(motifs.shape[1])]
    return (motifs.astype(np.uint64) * np.array(places, np.uint64)).sum(1)


@dataclasses.dataclass(frozen=True)
class MemorizationConfig(SyntheticTask):
    """Give the value that a fixed dictionary has for each key; no value is ever shown.

    Keys, drawn with replacement, and the insertion token, 0, take turns: the target at an
    insertion token is the value of the key before it. Every other target is -1 and carries
    no loss. ``MemorizationConfig(length=8, vocab_size=11)``, seed 0, train, example 0::

        inputs   5  0  4  0  3  0  2  0
        targets -1  7 -1  6 -1  9 -1 10

    With K = (V - 1) // 2 the keys are 1 .. K and the values K + 1 .. 2 K, each of one key.
    The dictionary is a function of K and ``dictionary`` alone: it is the same in both splits
    and under every seed, or there would be nothing to learn. Train and test never share a
    list of keys in one order.

    Attributes:
      length: L, tokens of a sequence; an odd one ends with a 0 that asks for nothing.
      vocab_size: V.
      dictionary: seed of the dictionary.
    """

    length: int
    vocab_size: int = 257
    dictionary: int = 0

    least = {"length": 2, "vocab_size": 5, "dictionary": 0}
    slices = "num_keys"

    @property
    def num_keys(self) -> int:
        """K, entries of the dictionary."""
        return (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        return 1 / self.num_keys

    def values(self) -> np.ndarray:
        """The values of keys 1 .. K, (K,)."""
        return _values(self.num_keys, self.dictionary).copy()

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        number = self.length // 2
        keys = source.of_split(
            lambda: rng.integers(1, self.num_keys + 1, size=number), sequence_checksum
        )
        inputs, targets = blank(self.length)
        inputs[: 2 * number : 2] = keys
        targets[1 : 2 * number : 2] = _values(self.num_keys, self.dictionary)[keys - 1]
        return inputs, targets, self.num_keys


@functools.lru_cache(maxsize=8)
def _values(keys: int, dictionary: int) -> np.ndarray:
    return 1 + keys + np.random.default_rng(dictionary).permutation(keys)


@dataclasses.dataclass(frozen=True)
class NoisyMQARConfig(SyntheticTask):
    """Recall values by their keys, with tokens in between that mean nothing.

    A sequence is made of slots of two tokens. A fixed share of them, at random places, holds
    two noise tokens; every other one holds a key and its value. Whenever a key comes back,
    the target at the key is its value; every other target is -1 and carries no loss.
    ``NoisyMQARConfig(length=16, num_pairs=(2,), vocab_size=14, noise=0.4, noise_vocab=4)``,
    seed 0, train, example 3::

        inputs  13 12  3  6 12 12  2  9  3  6  2  9 13 10  2  9
        targets -1 -1 -1 -1 -1 -1 -1 -1  6 -1  9 -1 -1 -1  9 -1

    The vocabulary is that of MQAR with noise_vocab noise tokens behind it: keys come from
    1 .. C//2 - 1 and values from C//2 .. C - 1 with C = V - noise_vocab, noise from
    C .. V - 1. Every pair of an example is shown at least once; beyond that keys come at
    random. MAD draws all of them at random, so that the number of pairs varies, and makes each
    slot noise with a fixed probability. Train and test never share a set of bindings.

    Attributes:
      length: L, tokens of a sequence; an odd one ends with a 0.
      num_pairs: numbers of pairs; each example draws one of them uniformly.
      vocab_size: V.
      noise: share of the slots that hold noise.
      noise_vocab: number of noise tokens.
    """

    length: int
    num_pairs: tuple[int, ...]
    vocab_size: int = 256
    noise: float = 0.2
    noise_vocab: int = 16

    least = {"length": 1, "vocab_size": 5, "noise_vocab": 1}
    slices = "num_pairs"

    def _check(self) -> None:
        check_share(self, "noise")
        most = max(self.num_pairs)
        if self.shown <= most:
            raise ValueError(
                f"NoisyMQAR.length: {self.length} tokens with a share of {self.noise} noise have "
                f"room for {self.shown} pairs, but {most} pairs and a query need {most + 1}; "
                "raise length, or lower num_pairs or noise"
            )
        keys = (self.vocab_size - self.noise_vocab) // 2 - 1
        tokens = f"{self.vocab_size} tokens, {self.noise_vocab} of them noise, hold"
        remedy = f"raise vocab_size to {2 * most + 2 + self.noise_vocab} or lower num_pairs"
        self.check_pairs(tokens, max(keys, 0), most, remedy)

    @property
    def shown(self) -> int:
        """Slots that hold a key and its value."""
        slots = self.length // 2
        return slots - round(self.noise * slots)

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        content = self.vocab_size - self.noise_vocab
        return 1 / (content - content // 2)

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        bindings = bindings_of(self.vocab_size - self.noise_vocab)
        number = choose(rng, self.num_pairs)
        keys, values = source.of_split(lambda: bindings.draw(rng, number), bindings.checksum)

        slots = self.length // 2
        order = np.concatenate([np.arange(number), rng.integers(number, size=self.shown - number)])
        rng.shuffle(order)
        asked = repeated(order)

        inputs, targets = blank(self.length)
        pairs = inputs[: 2 * slots].reshape(slots, 2)
        pairs[:] = rng.integers(bindings.vocab_size, self.vocab_size, size=(slots, 2))
        places = np.sort(rng.permutation(slots)[: self.shown])
        pairs[places, 0] = keys[order]
        pairs[places, 1] = values[order]
        targets[2 * places[asked]] = values[order[asked]]
        return inputs, targets, number


@dataclasses.dataclass(frozen=True)
class SelectiveCopyingConfig(SyntheticTask):
    """Give data tokens that were scattered among noise, in their order (also Mamba, 2312.00752).

    Noise with n data tokens at random places, then a separator, then n zeros: the targets at
    the zeros are the data tokens. Every other target is -1 and carries no loss.
    ``SelectiveCopyingConfig(length=16, num_tokens=(3,), vocab_size=8, noise_vocab=2)``,
    seed 0, train, example 0::

        inputs   0  0  0  0  7  0  6  1  1  1  5  1  2  0  0  0
        targets -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1  7  6  5

    Noise tokens are 0 .. noise_vocab - 1, the separator is noise_vocab, data tokens are
    noise_vocab + 1 .. V - 1, drawn with replacement. MAD has one noise token, a blank, and
    the same number of data tokens in every example. Train and test never share data tokens in
    one order.

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

    least = {"length": 1, "vocab_size": 4, "noise_vocab": 1}
    slices = "num_tokens"

    def _check(self) -> None:
        most = max(self.num_tokens)
        self.check_room(f"{most} tokens shown and copied", 2 * most + 1, "num_tokens")
        if self.vocab_size < self.noise_vocab + 3:
            raise ValueError(
                f"SelectiveCopying.vocab_size: {self.vocab_size} tokens, {self.noise_vocab} of "
                "them noise and one the separator, leave fewer than 2 for data; raise vocab_size "
                f"to {self.noise_vocab + 3} or lower noise_vocab"
            )

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all data tokens."""
        return 1 / (self.vocab_size - self.noise_vocab - 1)

    def _example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        number = choose(rng, self.num_tokens)
        first = self.noise_vocab + 1
        tokens = source.of_split(
            lambda: rng.integers(first, self.vocab_size, size=number), sequence_checksum
        )
        separator = self.length - number - 1
        inputs, targets = blank(self.length)
        inputs[:separator] = rng.integers(self.noise_vocab, size=separator)
        inputs[np.sort(rng.permutation(separator)[:number])] = tokens
        inputs[separator] = self.noise_vocab
        targets[separator + 1 :] = tokens
        return inputs, targets, number
