"""Noisy recall: key-value pairs among noise (MAD, arXiv 2403.17844)."""

import dataclasses

import numpy as np

from bmojo.data.source import check_share
from bmojo.data.synthetic import (
    Example,
    SyntheticSource,
    SyntheticTask,
    bindings_of,
    blank,
    choose,
    repeated,
)

__all__ = ["NoisyMQARConfig"]


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
    random. MAD draws all of them at random, so that the number of pairs varies, and
    independently makes each slot noise with a fixed probability.

    Train and test never share a set of bindings, whatever the seed, the length and the noise.

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

    def check(self) -> None:
        """Refuse pairs that neither the sequence nor the vocabulary can hold."""
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

    def example(self, rng: np.random.Generator, source: SyntheticSource) -> Example:
        """Inputs, targets and number of pairs of one example."""
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
