"""Variable-order Markov sources, of which context-tree weighting is the best predictor.

Willems, Shtarkov and Tjalkens, The Context-Tree Weighting Method: Basic Properties (1995).
"""

import dataclasses

import numpy as np

from bmojo.data.source import check_integer, check_share
from bmojo.data.synthetic import sequence_checksum
from bmojo.data.universal.sequences import Sequences, SequenceSource, chosen_bits, contexts

__all__ = ["ContextTree", "MarkovConfig", "MarkovSource", "draw_tree", "weighted"]


@dataclasses.dataclass(frozen=True, eq=False)
class ContextTree:
    """A binary source: the probability of a 1 depends on a suffix of at most D = depth bits.

    ``levels``, lengths of the suffix of each leaf from left to right (0 before 1), tell the
    tree's shape; ``ones`` is the probability of a 1 at each leaf, ``leaf`` (2^D,) that of each
    context (see :func:`bmojo.data.universal.sequences.contexts`).
    """

    depth: int
    levels: np.ndarray
    ones: np.ndarray
    leaf: np.ndarray

    def __len__(self) -> int:
        return len(self.levels)

    def sample(self, rng: np.random.Generator, length: int) -> np.ndarray:
        """A sequence (length,) of bits, uint8; before the first one there are zeros."""
        ones, mask = self.ones[self.leaf].tolist(), (1 << self.depth) - 1
        context, bits = 0, []
        for draw in rng.random(length).tolist():
            bit = draw < ones[context]
            bits.append(bit)
            context = (context << 1 | bit) & mask
        return np.asarray(bits, np.uint8)

    def probabilities(self, symbols: np.ndarray) -> np.ndarray:
        """Probability (n, L) of each bit of sequences (n, L), given those before."""
        ones = self.ones[self.leaf[contexts(symbols, self.depth)]]
        return np.where(symbols == 1, ones, 1 - ones)


def draw_tree(rng: np.random.Generator, depth: int, split: float = 0.5) -> ContextTree:
    """A tree of the prior of context-tree weighting.

    A node above ``depth`` has two children with probability ``split``; each leaf's probability
    of a 1 is drawn from Beta(1/2, 1/2).
    """
    leaf = np.zeros(1 << depth, np.int32)
    levels: list[int] = []
    waiting = [(0, 0)]
    while waiting:
        level, suffix = waiting.pop()
        if level < depth and rng.random() < split:
            waiting += [(level + 1, suffix | 1 << level), (level + 1, suffix)]
        else:
            leaf[suffix :: 1 << level] = len(levels)
            levels.append(level)
    ones = rng.beta(0.5, 0.5, size=len(levels))
    return ContextTree(depth, np.asarray(levels), ones, leaf)


def weighted(symbols: np.ndarray, depth: int, split: float = 0.5, alphabet: int = 2) -> np.ndarray:
    """The context-tree weighting predictor: the Bayesian mixture over all trees of the prior.

    A node predicts, as a leaf, by the estimator of Krichevsky and Trofimov (a Dirichlet(1/2, ...)
    prior), and else as its child on the path of the context does. Its prior weight as a leaf is
    1 - split; the posterior one is kept as log odds. For sequences of :func:`draw_tree` no
    predictor that does not know the tree has a lower expected loss.

    Of symbols (n, L) below the size A of the alphabet the result is the probabilities (n, L, A),
    float64, of the symbol at each place, given those before; before the first there are zeros.
    """
    rows, length = symbols.shape
    symbols = symbols.astype(np.int64)
    powers = alphabet ** np.arange(depth + 1)
    first = np.concatenate([[0], np.cumsum(powers)[:-1]])
    nodes = int(powers.sum())
    counts = np.zeros((rows * nodes, alphabet))
    with np.errstate(divide="ignore"):
        odds = np.full(rows * nodes, np.log(1 - split) - np.log(split))
    before = contexts(symbols, depth, alphabet)
    offset = (nodes * np.arange(rows))[:, None] + first
    row = np.arange(rows)
    found = np.empty((rows, length, alphabet))
    below = np.empty((rows, depth))
    for place in range(length):
        path = offset + before[:, place, None] % powers  # (n, D + 1), from the root down
        seen = counts[path]
        own = (seen + 0.5) / (seen.sum(-1, keepdims=True) + alphabet / 2)
        is_leaf = 0.5 + 0.5 * np.tanh(0.5 * odds[path])[..., None]
        symbol = symbols[:, place]
        mixed = own[:, depth]
        for level in reversed(range(depth)):
            below[:, level] = mixed[row, symbol]
            mixed = is_leaf[:, level] * own[:, level] + (1 - is_leaf[:, level]) * mixed
        found[:, place] = mixed
        chosen = np.take_along_axis(own, symbol[:, None, None], axis=-1)[:, :depth, 0]
        odds[path[:, :depth]] += np.log(chosen) - np.log(below)
        counts[path, symbol[:, None]] += 1
    return found


@dataclasses.dataclass(frozen=True)
class MarkovConfig:
    """Predict the next bit of a source that is new in every sequence.

    A source is a :class:`ContextTree` that :func:`draw_tree` draws; before the first bit there
    are zeros. Bits are the tokens 0 and 1, the begin token is 2, and every bit is a target.
    ``MarkovConfig(length=16)``, seed 0, train, example 7::

        inputs   2 1 1 1 1 0 1 0 1 0 0 1 0 1 1 1
        targets  1 1 1 1 0 1 0 1 0 0 1 0 1 1 1 0

    Context-tree weighting is the best predictor that does not know the source: the *oracle*,
    computed exactly. The source's own probabilities are a lower bound.

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
        if self.depth > 12:
            raise ValueError(f"Markov.depth: {self.depth} is too large; give at most 12")
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
    """Sequences of variable-order Markov sources; ``group`` is the number of leaves, up to."""

    alphabet = 2

    def draw(self, rng: np.random.Generator) -> tuple[ContextTree, np.ndarray]:
        """A tree of this split, and a sequence of it (L,)."""
        config = self.config
        tree = self.of_split(lambda: draw_tree(rng, config.depth, config.split), _checksum)
        return tree, tree.sample(rng, config.length)

    def oracle_bits(self, sequences: Sequences[ContextTree]) -> np.ndarray:
        """Bits of each symbol (n, L) by context-tree weighting."""
        symbols = sequences.symbols
        return chosen_bits(weighted(symbols, self.config.depth, self.config.split), symbols)

    def source_bits(self, sequences: Sequences[ContextTree]) -> np.ndarray:
        """Bits of each symbol (n, L) under the tree that made it."""
        rows = zip(sequences.origins, sequences.symbols, strict=True)
        return -np.log2([tree.probabilities(symbols[None])[0] for tree, symbols in rows])


def _checksum(tree: ContextTree) -> int:
    ones = (tree.ones * 2.0**31).astype(np.uint64)
    return sequence_checksum(np.concatenate([tree.levels.astype(np.uint64), ones]))
