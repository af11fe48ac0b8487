"""Context trees: binary sources with suffixes of different lengths, and their exact mixture.

Willems, Shtarkov and Tjalkens, The Context-Tree Weighting Method: Basic Properties (1995).
"""

import dataclasses

import numpy as np

from bmojo.data.universal.sequences import contexts

__all__ = ["ContextTree", "draw_tree", "weighted"]


@dataclasses.dataclass(frozen=True, eq=False)
class ContextTree:
    """A binary source: the probability of a 1 depends on a suffix of the bits before it.

    Attributes:
      depth: D, no suffix is longer.
      levels: length of the suffix of each leaf, leaves from left to right (0 before 1), which
        tells the shape of the tree.
      ones: probability of a 1 at each leaf.
      leaf: of each context, (2^D,); see :func:`bmojo.data.universal.sequences.contexts`.
    """

    depth: int
    levels: np.ndarray
    ones: np.ndarray
    leaf: np.ndarray

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

    Args:
      rng: of the draws.
      depth: D.
      split: probability that a node above depth D has two children. Each leaf's probability of
        a 1 is drawn from Beta(1/2, 1/2).
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

    A node predicts, as a leaf, by the estimator of Krichevsky and Trofimov, which is that of a
    Dirichlet(1/2, ...) prior; and else as its child on the path of the context does. Its prior
    weight as a leaf is 1 - split, its posterior one is kept as log odds. So one symbol of one
    sequence takes depth + 1 nodes, and all sequences go on together.

    For sequences of :func:`draw_tree` (binary, with the same depth and split) no predictor that
    does not know the tree has a lower expected loss, at any place.

    Args:
      symbols: (n, L), 0 .. alphabet - 1; before the first one there are zeros.
      depth: D, nodes at this depth are leaves.
      split: of the prior.
      alphabet: A, how many different symbols there are.

    Returns:
      Probabilities (n, L, A) of the symbol at each place, given those before; float64.
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
