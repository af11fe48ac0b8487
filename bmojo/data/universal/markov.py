"""Variable-order Markov sources, of which context-tree weighting is the best predictor."""

import dataclasses

import numpy as np

from bmojo.data.source import check_integer, check_share
from bmojo.data.synthetic import sequence_checksum
from bmojo.data.universal.context_tree import ContextTree, draw_tree, weighted
from bmojo.data.universal.sequences import Sequences, SequenceSource, bucket, chosen_bits

__all__ = ["MarkovConfig", "MarkovSource"]

DEEPEST = 12


@dataclasses.dataclass(frozen=True)
class MarkovConfig:
    """Predict the next bit of a source that is new in every sequence.

    A source is a binary tree of suffixes: the probability of a 1 is that of the leaf which the
    last bits lead to, the last one first. Every node above ``depth`` has two children with
    probability ``split``, every leaf's probability is drawn from Beta(1/2, 1/2); before the first
    bit there are zeros. Bits are the tokens 0 and 1, the begin token is 2, and every bit is a
    target. ``MarkovConfig(length=16)``, seed 0, train, example 7::

        inputs   2 1 1 1 1 0 1 0 1 0 0 1 0 1 1 1
        targets  1 1 1 1 0 1 0 1 0 0 1 0 1 1 1 0

    This is the prior of context-tree weighting (Willems, Shtarkov and Tjalkens 1995), which is
    therefore the best predictor: the *oracle*, computed exactly. The source's own probabilities
    are a lower bound that no predictor reaches without knowing the source.

    Train and test never share a source, whatever the seed and the length. ``group`` is the
    number of leaves, rounded up to a power of two; half of the sources have one leaf only.

    Attributes:
      length: L, bits of a sequence.
      depth: D, bits that a source can depend on.
      split: probability that a node has children.
    """

    length: int
    depth: int = 8
    split: float = 0.5

    slices = "leaves_up_to"

    def __post_init__(self) -> None:
        check_integer(self, "length", 1)
        check_integer(self, "depth", 0)
        if self.depth > DEEPEST:
            raise ValueError(f"Markov.depth: {self.depth} is too large; give at most {DEEPEST}")
        check_share(self, "split")

    @property
    def vocab_size(self) -> int:
        """Two bits and the begin token."""
        return 3

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 0.5

    def source(self, seed: int, split: str) -> "MarkovSource":
        """All examples of a split: 'train' or 'test'."""
        return MarkovSource(self, seed, split)


class MarkovSource(SequenceSource[MarkovConfig, ContextTree]):
    """Sequences of variable-order Markov sources; ``group`` is the number of leaves, up to.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    alphabet = 2

    def draw(self, rng: np.random.Generator) -> tuple[ContextTree, np.ndarray]:
        """A tree of this split, and a sequence of it (L,)."""
        config = self.config
        tree = self.of_split(lambda: draw_tree(rng, config.depth, config.split), _checksum)
        return tree, tree.sample(rng, config.length)

    def complexity(self, origin: ContextTree) -> int:
        """Number of leaves, rounded up to a power of two."""
        return bucket(len(origin.levels))

    def oracle_bits(self, sequences: Sequences[ContextTree]) -> np.ndarray:
        """Bits of each symbol (n, L) by context-tree weighting."""
        symbols = sequences.symbols
        return chosen_bits(weighted(symbols, self.config.depth, self.config.split), symbols)

    def source_bits(self, sequences: Sequences[ContextTree]) -> np.ndarray:
        """Bits of each symbol (n, L) under the tree that made it."""
        rows = zip(sequences.origins, sequences.symbols, strict=True)
        return -np.log2([tree.probabilities(symbols[None])[0] for tree, symbols in rows])


def _checksum(tree: ContextTree) -> int:
    """Of the tree's shape and its probabilities."""
    ones = (tree.ones * 2.0**31).astype(np.uint64)
    return sequence_checksum(np.concatenate([tree.levels.astype(np.uint64), ones]))
