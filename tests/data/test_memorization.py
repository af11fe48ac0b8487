import numpy as np
import pytest

from bmojo.data.mad import MemorizationConfig


def dictionary(config, seed, split):
    """What a source's examples say."""
    source, known = config.source(seed, split), {}
    for index in range(40):
        item = source[index]
        known.update(zip(item["inputs"][0:16:2], item["targets"][1:17:2], strict=True))
    return known


def test_the_dictionary_is_the_same_in_both_splits_and_under_every_seed():
    config = MemorizationConfig(16, vocab_size=22)
    train = dictionary(config, 0, "train")
    assert train == dictionary(config, 7, "test")
    assert sorted(train) == list(range(1, 11))
    assert sorted(train.values()) == list(range(11, 21))
    other = MemorizationConfig(16, vocab_size=22, dictionary=1)
    assert train != dictionary(other, 0, "train")


def test_no_value_is_shown_and_an_odd_end_asks_for_nothing():
    item = MemorizationConfig(17, vocab_size=21).source(0, "train")[0]
    assert (item["inputs"] <= 10).all()
    assert (item["inputs"][1::2] == 0).all()
    assert np.flatnonzero(item["targets"] >= 0).tolist() == list(range(1, 17, 2))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 1}, ValueError, r"Memorization\.length: 1 is too small; give at least 2"),
        ({"vocab_size": 4}, ValueError, r"Memorization\.vocab_size: 4 is too small"),
        ({"dictionary": -1}, ValueError, "dictionary: -1 is too small"),
        ({"dictionary": None}, TypeError, "dictionary: None is not an integer"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        MemorizationConfig(**({"length": 16} | fields))
