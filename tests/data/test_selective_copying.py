import numpy as np
import pytest

from bmojo.data.mad import SelectiveCopyingConfig


def test_data_tokens_are_anywhere_in_noise_of_every_kind():
    config = SelectiveCopyingConfig(32, (4,), vocab_size=12, noise_vocab=3)
    source = config.source(0, "train")
    places, tokens = np.zeros(27), np.zeros(12)
    for index in range(1000):
        inputs = source[index]["inputs"]
        assert inputs[27] == 3
        assert (inputs[28:] == 0).all()
        places += inputs[:27] > 3
        tokens += np.bincount(inputs[:27], minlength=12)
    assert np.allclose(places / 1000, 4 / 27, atol=0.05)
    assert np.allclose(tokens[:3] / tokens[:3].sum(), 1 / 3, atol=0.02)
    assert tokens[3] == 0
    assert np.allclose(tokens[4:] / tokens[4:].sum(), 1 / 8, atol=0.02)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 16}, ValueError, r"SelectiveCopying\.length: 8 .* need 17 .*; raise length"),
        ({"noise_vocab": 14}, ValueError, "vocab_size: 16 .*raise vocab_size to 17"),
        ({"noise_vocab": 0}, ValueError, "noise_vocab: 0 is too small"),
        ({"num_tokens": (8, 0)}, ValueError, r"SelectiveCopying\.num_tokens: 0 is too small"),
        ({"vocab_size": True}, TypeError, "vocab_size: True is not an integer"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        SelectiveCopyingConfig(**({"length": 64, "num_tokens": (8,)} | fields))


def test_room_for_no_noise_at_all_is_enough():
    item = SelectiveCopyingConfig(17, (8,)).source(0, "train")[0]
    assert (item["inputs"][:8] == item["targets"][9:]).all()
