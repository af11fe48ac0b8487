"""Distances between pairs and queries, and accuracy by them."""

import numpy as np
import pytest
from rich.console import Console

from bmojo.data.mqar import MQARConfig
from bmojo.evaluation.outputs import plot_recall, recall_table
from bmojo.evaluation.recall import evaluate, evaluate_recall, query_distances
from bmojo.training.config import Evaluation
from tests.small_models import model


def test_distances_of_the_documented_example():
    inputs = np.array([5, 7, 2, 9, 0, 0, 2, 0, 0, 0, 5, 0])
    targets = np.full(12, -1)
    targets[6], targets[10] = 9, 7
    found = query_distances(inputs, targets)
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 10, 0]


def test_the_last_pair_counts_and_a_lone_key_does_not():
    inputs = np.array([5, 7, 5, 7, 5, 1, 5, 6])
    targets = np.full(8, -1)
    targets[6] = 7
    assert query_distances(inputs, targets)[6] == 4
    targets[6] = 3
    assert query_distances(inputs, targets)[6] == 0


def test_rows_agree_with_the_plain_evaluation():
    data = MQARConfig(length=32, num_pairs=(2, 4), vocab_size=24, passes=2, filler="random")
    evaluations = [Evaluation("recall", data, batches=2, batch_size=4)]
    groups, distances = evaluate_recall(model("bmojo"), evaluations)
    plain = evaluate(model("bmojo"), evaluations)
    assert [row["group"] for row in groups] == [2, 4, None]
    names = ("evaluation", "group", "count")
    for row, expected in zip(groups, plain, strict=True):
        assert [row[n] for n in names] == [expected[n] for n in names]
        for number in ("loss", "accuracy"):
            assert row[number] == pytest.approx(expected[number], rel=1e-5)
    assert sum(row["count"] for row in distances) == groups[-1]["count"]
    right = sum(row["accuracy"] * row["count"] for row in distances)
    assert right == pytest.approx(groups[-1]["accuracy"] * groups[-1]["count"])
    assert all(row["distance"] & (row["distance"] - 1) == 0 for row in distances)
    Console(quiet=True).print(recall_table(distances, "distance", "accuracy by distance"))
    assert len(plot_recall(groups, distances, "num_pairs", [0.1]).axes) == 2
