import numpy as np
import pytest

from bmojo.data.in_context_regression import InContextRegressionConfig
from tests.data import solvers


def accuracy(config):
    right = []
    for index in range(150):
        item = config.source(0, "test")[index]
        asked = item["targets"] >= 0
        right.extend(
            (solvers.in_context_regression(config, item["inputs"]) == item["targets"])[asked]
        )
    return np.mean(right)


def test_least_squares_does_better_with_more_examples_and_worse_with_noise():
    few, many = (InContextRegressionConfig(128, (number,)) for number in (2, 32))
    noisy = InContextRegressionConfig(128, (32,), noise=0.3)
    assert accuracy(many) > accuracy(few) + 0.2
    assert accuracy(many) > accuracy(noisy) + 0.2 > noisy.chance + 0.2


def test_quantising_inverts_the_middles_of_bins_and_never_leaves_them():
    config = InContextRegressionConfig(64, (4,), vocab_size=16)
    bins = np.arange(config.bins)
    assert config.bins == 7
    assert (config.quantise(config.middle(bins)) == bins).all()
    assert config.quantise(np.array([-9.0, -1.0, 1.0, 9.0])).tolist() == [0, 0, 6, 6]
    assert np.allclose(config.middle(bins), -config.middle(bins)[::-1])


def test_x_and_y_have_tokens_of_their_own():
    config = InContextRegressionConfig(40, (5,), vocab_size=16, dimensions=3, queries=4)
    source = config.source(0, "train")
    rows, answers = [], []
    for index in range(200):
        item = source[index]
        rows.append(item["inputs"][:36].reshape(9, 4))
        answers.append(item["targets"][:36].reshape(9, 4))
        assert (item["inputs"][36:] == 0).all() and (item["targets"][36:] == -1).all()
    rows, answers = np.array(rows), np.array(answers)
    assert set(rows[:, :, :3].ravel()) == set(range(1, 8))
    assert set(rows[:, :5, 3].ravel()) == set(answers[:, 5:, 2].ravel()) == set(range(8, 15))
    assert (rows[:, 5:, 3] == 0).all()
    assert (answers >= 0).sum() == 200 * 4


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 35}, ValueError, r"InContextRegression\.length: 8 .* need 36 tokens, got 35"),
        ({"dimensions": 5}, ValueError, "need 72"),
        ({"queries": 0}, ValueError, "queries: 0 is too small"),
        ({"vocab_size": 4}, ValueError, "vocab_size: 4 is too small; give at least 5"),
        ({"noise": -1}, ValueError, "noise: -1 is out of range"),
        ({"noise": float("nan")}, ValueError, "noise: nan is out of range"),
        ({"noise": None}, TypeError, "noise: None is not a number"),
        ({"num_examples": (2.5,)}, TypeError, r"num_examples: 2\.5 is not an integer"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        InContextRegressionConfig(**({"length": 64, "num_examples": (8,)} | fields))
