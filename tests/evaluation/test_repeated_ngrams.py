"""Loss on repeated n-grams, against loops over the text."""

import numpy as np
import pytest

from bmojo.evaluation.outputs import ngram_table, plot_ngrams
from bmojo.evaluation.repeated_ngrams import (
    known_ngrams,
    losses_by_distance,
    ngram_hashes,
    repeat_distances,
)


def slow_distances(tokens, training, span):
    """Distances by looking."""
    tokens = list(tokens)
    pieces = {tuple(d[i - span : i + 1]) for d in training for i in range(span, len(d))}
    far = []
    for place in range(1, len(tokens)):
        piece = tuple(tokens[place - span : place + 1])
        if place < span or piece in pieces:
            far.append(-1)
            continue
        before = [i for i in range(span, place) if tuple(tokens[i - span : i + 1]) == piece]
        far.append(place - before[-1] if before else 0)
    return far


@pytest.mark.parametrize("span", (1, 2, 3, 6))
def test_distances(span):
    rng = np.random.default_rng(span)
    training = [rng.integers(0, 4, size).tolist() for size in (30, 2, 0, 17)]
    known = known_ngrams(training, span)
    assert known.dtype == np.uint64
    assert (np.diff(known.astype(object)) > 0).all()
    for size in (0, 1, 2, span, span + 1, 80):
        tokens = rng.integers(0, 6, size)
        expected = slow_distances(tokens, training, span)
        assert repeat_distances(tokens, known, span).tolist() == expected


def test_every_kind_is_there():
    tokens = np.array([1, 2, 3, 4, 1, 2, 3, 4, 9, 8, 1, 2])
    known = known_ngrams([[1, 2, 7]], 1)
    assert repeat_distances(tokens, known, 1).tolist() == [-1, 0, 0, 0, -1, 4, 4, 0, 0, 0, -1]


def test_nothing_known():
    assert repeat_distances([5, 6, 5, 6], known_ngrams([]), 1).tolist() == [0, 0, 2]


def test_hashes_differ():
    """Hashes of different n-grams of all short sequences are different."""
    every = np.stack(np.meshgrid(*[np.arange(16)] * 4, indexing="ij"), -1).reshape(-1, 4)
    assert len({int(ngram_hashes(row, 3)[0]) for row in every}) == 16**4
    assert ngram_hashes([1, 2, 3], 1)[0] == ngram_hashes([9, 1, 2], 1)[1]


def test_losses_by_distance():
    tokens = [np.array([1, 2, 3, 1, 2, 3, 1, 2]), np.array([3, 1, 2, 0, 1, 2])]
    losses = [np.arange(1.0, 8), np.arange(10.0, 15)]
    known = known_ngrams([[3, 1]], 1)
    rows = {
        (row["kind"], row["start"]): row for row in losses_by_distance(tokens, losses, known, 1)
    }
    # (2 3 1): known at the places of losses 3, 6 and 10; (1 2) and (2 3) are new once a window.
    assert rows["known", None]["loss"] == pytest.approx((3 + 6 + 10) / 3)
    assert rows["new", None]["loss"] == pytest.approx((1 + 2 + 11 + 12 + 13) / 5)
    assert rows["repeated", 2]["loss"] == pytest.approx((4 + 5 + 7 + 14) / 4)
    assert (rows["repeated", 2]["stop"], rows["repeated", 2]["count"]) == (4, 4)
    assert rows["repeated", 1]["count"] == 0
    assert rows["repeated", 1]["loss"] is None
    deviations = np.array([16 - 3 * 7.5, 14 - 7.5])
    expected = np.sqrt((deviations**2).sum() * 2) / 4
    assert rows["repeated", 2]["stderr"] == pytest.approx(expected)
    assert sum(row["count"] for row in rows.values()) == 12


def test_table_and_figure():
    tokens, losses = [np.array([1, 2, 3, 1, 2, 3, 1, 2])], [np.arange(1.0, 8)]
    rows = losses_by_distance(tokens, losses, known_ngrams([]), 1)
    table = ngram_table(rows, 1)
    assert list(table.columns[0].cells)[2:] == [
        "not in it, 1 - 1 tokens ago",
        "not in it, 2 - 3 tokens ago",
    ]
    assert list(table.columns[3].cells) == ["0", "3", "0", "4"]
    (axis,) = plot_ngrams(rows).axes
    assert axis.get_xscale() == "log"
    assert [line.get_label() for line in axis.lines if "new" in str(line.get_label())] == ["new"]
