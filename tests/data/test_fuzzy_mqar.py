import numpy as np
import pytest

from bmojo.data.mad import FuzzyMQARConfig


def runs(inputs, half):
    """The pairs of a sequence, in order: keys and values as tuples."""
    pairs, key, value = [], (), ()
    for token in [*inputs.tolist(), 0]:
        if token < half and value:
            pairs.append((key, value))
            key, value = (), ()
        if token >= half:
            value += (token,)
        elif token:
            key += (token,)
    return pairs


def test_keys_and_values_have_every_length_up_to_the_longest():
    config = FuzzyMQARConfig(80, (4,), vocab_size=32, key_tokens=3, value_tokens=2)
    source = config.source(0, "train")
    lengths = np.zeros((4, 3))
    for index in range(300):
        item = source[index]
        pairs = runs(item["inputs"], 16)
        shown = dict(pairs)
        assert len(shown) == item["group"] == 4
        assert all(shown[key] == value for key, value in pairs)
        for key, value in shown.items():
            assert len(set(key)) == len(key) and len(set(value)) == len(value)
            lengths[len(key), len(value)] += 1
        asked = sum(len(value) for _, value in pairs) - sum(map(len, shown.values()))
        assert (item["targets"] >= 0).sum() == asked > 0
        # Nothing more fits, but for the longest pair's tokens.
        assert np.count_nonzero(item["inputs"]) > 80 - 5
    assert np.allclose(lengths[1:, 1:] / lengths.sum(), 1 / 6, atol=0.05)


def test_short_keys_that_many_pairs_exhaust_still_differ():
    """Nine pairs for 3 keys of one token and 6 of two."""
    config = FuzzyMQARConfig(40, (9,), vocab_size=8, key_tokens=2, value_tokens=1)
    for index in range(20):
        pairs = runs(config.source(0, "train")[index]["inputs"], 4)
        assert len(dict(pairs)) == 9


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 53}, ValueError, r"FuzzyMQAR\.length: 8 pairs .* need 54 tokens, got 53"),
        ({"vocab_size": 6}, ValueError, "key_tokens: 3 different tokens are more than the 2"),
        ({"value_tokens": 33, "length": 999}, ValueError, "value_tokens: 33 .* than the 32"),
        ({"vocab_size": 14, "key_tokens": 1}, ValueError, "vocab_size: 14 tokens make 6 keys"),
        ({"key_tokens": 0}, ValueError, "key_tokens: 0 is too small"),
        ({"value_tokens": 1.5}, TypeError, "value_tokens: 1.5 is not an integer"),
        ({"num_pairs": ()}, TypeError, r"num_pairs: \(\) is not a tuple of numbers"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        FuzzyMQARConfig(**({"length": 64, "num_pairs": (8,)} | fields))
