import numpy as np
import pytest

from bmojo.data.mad import NoisyMQARConfig


@pytest.mark.parametrize("noise", [0, 0.25, 0.7])
def test_every_pair_is_shown_and_a_fixed_share_of_slots_is_noise(noise):
    config = NoisyMQARConfig(65, (3, 5), vocab_size=40, noise=noise, noise_vocab=8)
    source = config.source(0, "test")
    places = np.zeros(32)
    for index in range(100):
        item = source[index]
        slots, number = item["inputs"][:64].reshape(32, 2), int(item["group"])
        noisy = slots >= 32
        assert (noisy[:, 0] == noisy[:, 1]).all()
        assert noisy[:, 0].sum() == round(noise * 32)
        pairs = slots[~noisy[:, 0]]
        assert len(np.unique(pairs, axis=0)) == len(set(pairs[:, 0])) == number
        assert (item["targets"] >= 0).sum() == len(pairs) - number
        assert item["inputs"][64] == 0 and item["targets"][64] == -1
        places += noisy[:, 0]
    assert np.abs(places / 100 - noise).max() < 0.25


def test_noise_and_length_do_not_change_the_split_of_bindings():
    """What MQAR draws for test is test here too: one checksum for both."""
    seen = []
    for config, split in (
        (NoisyMQARConfig(8, (2,), vocab_size=12, noise=0, noise_vocab=4), "train"),
        (NoisyMQARConfig(64, (2,), vocab_size=20, noise=0.5, noise_vocab=12), "test"),
    ):
        source = config.source(0, split)
        seen.append(set())
        for index in range(200):
            inputs = source[index]["inputs"]
            pairs = inputs[inputs < 8].reshape(-1, 2).tolist()
            seen[-1].add(frozenset(map(tuple, pairs)))
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 17}, ValueError, r"NoisyMQAR\.length: .* room for 6 pairs, but 8 .* need 9"),
        ({"noise": 0.8}, ValueError, "room for 6 pairs"),
        ({"noise": 1}, ValueError, "noise: 1 is out of range; give a number of at least 0 and"),
        ({"noise": -0.1}, ValueError, "noise: -0.1"),
        ({"noise": "much"}, TypeError, "noise: 'much' is not a number"),
        ({"noise_vocab": 0}, ValueError, "noise_vocab: 0 is too small"),
        ({"vocab_size": 33}, ValueError, r"hold 7 keys.*raise vocab_size to 34"),
        ({"vocab_size": 6}, ValueError, "hold 0 keys"),
        ({"num_pairs": 8}, TypeError, r"NoisyMQAR\.num_pairs: 8 is not a tuple"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        NoisyMQARConfig(**({"length": 64, "num_pairs": (8,)} | fields))


def test_just_enough_is_taken():
    item = NoisyMQARConfig(18, (8,), vocab_size=34, noise=0).source(0, "train")[0]
    assert (item["targets"] >= 0).sum() == 1
