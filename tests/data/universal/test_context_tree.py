"""Context-tree weighting against the mixture over all trees, written out."""

import itertools
import math

import numpy as np
import pytest

from bmojo.data.universal.markov import draw_tree, weighted
from bmojo.data.universal.sequences import chosen_bits, contexts


def trees(depth, split, alphabet, suffix=()):
    """Every tree below a node, with its prior: (probability, suffixes of its leaves)."""
    if len(suffix) == depth:
        return [(1.0, [suffix])]
    found = [(1 - split, [suffix])]
    children = [trees(depth, split, alphabet, (*suffix, a)) for a in range(alphabet)]
    for choice in itertools.product(*children):
        leaves = [leaf for _, part in choice for leaf in part]
        found.append((split * math.prod(p for p, _ in choice), leaves))
    return found


def probability(sequence, leaves, alphabet):
    """Of a sequence under a tree whose leaves have Dirichlet(1/2, ...) priors."""
    counts = {leaf: [0] * alphabet for leaf in leaves}
    total = 1.0
    past = [0] * 10
    for symbol in sequence:
        (leaf,) = [k for k in leaves if all(past[-1 - i] == k[i] for i in range(len(k)))]
        seen = counts[leaf]
        total *= (seen[symbol] + 0.5) / (sum(seen) + alphabet / 2)
        seen[symbol] += 1
        past.append(symbol)
    return total


@pytest.mark.parametrize(
    ("depth", "alphabet", "split", "length"),
    [(0, 2, 0.5, 4), (1, 2, 0.5, 7), (2, 2, 0.5, 7), (3, 2, 0.3, 6), (1, 3, 0.5, 4), (2, 2, 0, 4)],
)
def test_weighting_is_the_mixture_over_all_trees(depth, alphabet, split, length):
    mixture = trees(depth, split, alphabet)
    assert sum(prior for prior, _ in mixture) == pytest.approx(1)
    sequences = np.array(list(itertools.product(range(alphabet), repeat=length)), np.uint8)
    found = chosen_bits(weighted(sequences, depth, split, alphabet), sequences).sum(1)
    expected = [
        sum(prior * probability(row, leaves, alphabet) for prior, leaves in mixture)
        for row in sequences.tolist()
    ]
    assert sum(expected) == pytest.approx(1)
    np.testing.assert_allclose(2.0**-found, expected, rtol=1e-11)


def test_probabilities_sum_to_one_and_do_not_see_what_follows():
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 2, (3, 300))
    found = weighted(symbols, 8)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    assert (found > 0).all()
    changed = symbols.copy()
    changed[:, 200:] = 1 - changed[:, 200:]
    assert (weighted(changed, 8)[:, :201] == found[:, :201]).all()
    assert (weighted(symbols[1:2], 8)[0] == found[1]).all()


def test_contexts_are_the_last_symbols_the_last_one_lowest():
    found = contexts(np.array([[1, 2, 0, 1, 2]]), 2, 3)
    assert found.tolist() == [[0, 1, 2 + 3, 6, 1]]
    assert contexts(np.array([[1, 1]]), 0).tolist() == [[0, 0]]


def test_a_tree_predicts_what_its_samples_do():
    rng = np.random.default_rng(3)
    tree = next(t for t in iter(lambda: draw_tree(rng, 3), None) if len(t.levels) > 4)
    sample = tree.sample(rng, 60_000)
    np.testing.assert_array_equal(np.sort(np.unique(tree.leaf)), np.arange(len(tree.levels)))
    assert (0.5**tree.levels).sum() == 1
    leaf = tree.leaf[contexts(sample[None], 3)[0]]
    for number, chance in enumerate(tree.ones):
        seen = sample[leaf == number]
        if len(seen) > 500:
            assert seen.mean() == pytest.approx(chance, abs=5 * 0.5 / len(seen) ** 0.5)


def test_trees_come_from_the_prior():
    rng = np.random.default_rng(0)
    sizes = np.array([len(draw_tree(rng, 8).levels) for _ in range(4000)])
    assert (sizes == 1).mean() == pytest.approx(1 / 2, abs=0.03)
    assert (sizes == 2).mean() == pytest.approx(1 / 8, abs=0.02)
    assert sizes.mean() == pytest.approx(5, abs=0.5)


def test_weighting_is_best_for_its_prior_but_for_the_source_itself():
    """In the mean over sources: source < weighting < the same with a wrong depth or split."""
    rng = np.random.default_rng(1)
    drawn = [draw_tree(rng, 5) for _ in range(400)]
    symbols = np.stack([tree.sample(rng, 200) for tree in drawn])
    source = -np.log2([t.probabilities(s[None])[0] for t, s in zip(drawn, symbols, strict=True)])
    weighting = chosen_bits(weighted(symbols, 5), symbols).sum(1)
    assert source.sum(1).mean() < weighting.mean()
    for depth, split in ((0, 0.5), (2, 0.5), (5, 0.1), (5, 0.9)):
        other = chosen_bits(weighted(symbols, depth, split), symbols).sum(1)
        assert (other - weighting).mean() > 2 * (other - weighting).std() / 20
