"""Facts at the beginning of a long stream, and questions at its end: noisy recall, stretched.

A stream of any length for models trained on :mod:`bmojo.data.mad`: the facts are followed
by noise and by pairs of other keys, which may be just as surprising.
"""

import dataclasses

import numpy as np

from bmojo.data.mad import NoisyMQARConfig
from bmojo.data.source import check_integer, check_share

__all__ = ["Haystack", "HaystackConfig"]


@dataclasses.dataclass(frozen=True)
class Haystack:
    """A stream of tokens (n,) with questions.

    The token behind each of the places ``asked`` (facts,) is the answer. ``answers`` (versions,
    facts) are the values that the keys ever had, the last row being right.
    """

    tokens: np.ndarray
    asked: np.ndarray
    answers: np.ndarray


@dataclasses.dataclass(frozen=True)
class HaystackConfig:
    """Facts, then filler, then one question for each fact.

    With ``facts=1, filler=8, distractors=0.5`` and the noise tokens 12 and 13 a stream is::

        3  7  12 13  5  9  12 12  4  8  3  7
        fact  ------- filler ---------  question and answer

    With several versions the facts come again, each key with a new value, at equal distances
    within the filler; only the last value is right.

    Attributes:
      facts: keys that are asked for.
      filler: tokens between facts and questions, rounded down to an even number of each version.
      distractors: share of the filler, in slots of two tokens, that holds a pair of another key;
        the rest is noise.
      versions: how often the facts are told.
    """

    facts: int = 32
    filler: int = 1024
    distractors: float = 0.25
    versions: int = 1

    def __post_init__(self) -> None:
        for field, least in (("facts", 1), ("filler", 0), ("versions", 1)):
            check_integer(self, field, least)
        check_share(self, "distractors")

    def make(self, task: NoisyMQARConfig, seed: int) -> Haystack:
        """The stream of a seed in the vocabulary of a task.

        Raises:
          ValueError: the vocabulary has too few keys or values.
        """
        content = task.vocab_size - task.noise_vocab
        half = content // 2
        others, values = half - 1 - self.facts, content - half
        if others < 1:
            raise ValueError(
                f"Haystack.facts: {self.facts} facts leave none of the {half - 1} keys for the "
                f"filler; give at most {half - 2}"
            )
        if self.versions > values:
            raise ValueError(
                f"Haystack.versions: there are {values} values; give at most as many versions"
            )
        rng = np.random.default_rng([seed, self.facts, self.filler, self.versions])
        keys = 1 + rng.permutation(half - 1)
        asked, rest = keys[: self.facts], keys[self.facts :]
        answers = half + np.stack(
            [rng.permutation(values)[: self.versions] for _ in range(self.facts)], axis=1
        )
        parts = []
        for version in range(self.versions):
            order = rng.permutation(self.facts)
            parts.append(np.stack([asked[order], answers[version][order]], axis=1))
            slots = self.filler // (2 * self.versions)
            filler = rng.integers(content, task.vocab_size, size=(slots, 2))
            pairs = rng.random(slots) < self.distractors
            number = int(pairs.sum())
            filler[pairs, 0] = rng.choice(rest, number)
            filler[pairs, 1] = half + rng.integers(values, size=number)
            parts.append(filler)
        order = rng.permutation(self.facts)
        parts.append(np.stack([asked[order], answers[-1][order]], axis=1))
        tokens = np.concatenate(parts).astype(np.int32).ravel()
        places = len(tokens) - 2 * self.facts + 2 * np.arange(self.facts)
        return Haystack(tokens, places, answers[:, order].astype(np.int32))
