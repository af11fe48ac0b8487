import inspect
import itertools

import numpy as np
import pytest

from bmojo.data.mqar import MQARConfig

EASY = MQARConfig(length=64, num_pairs=(2, 4, 8), vocab_size=64)


def bindings(item):
    """The pairs shown in an example, read off its first tokens."""
    shown = item["inputs"][: 2 * int(item["group"])]
    return frozenset(zip(shown[0::2].tolist(), shown[1::2].tolist(), strict=True))


def test_the_picture_in_the_docstring_is_the_example_it_names():
    lines = [line.split() for line in inspect.getdoc(MQARConfig).splitlines()]
    drawn = {
        line[0]: list(map(int, line[1:]))
        for line in lines
        if line and line[0] in ("inputs", "targets")
    }
    item = MQARConfig(length=16, num_pairs=(2,), vocab_size=12).source(0, "train")[1]
    assert drawn["inputs"] == item["inputs"].tolist()
    assert drawn["targets"] == item["targets"].tolist()


@pytest.mark.parametrize("passes", [1, 3])
def test_every_key_is_shown_and_queried_once_and_its_target_is_its_value(passes):
    config = MQARConfig(length=64, num_pairs=(2, 5), vocab_size=64, passes=passes)
    source = config.source(3, "train")
    for index in range(50):
        item = source[index]
        assert item["inputs"].dtype == item["targets"].dtype == np.int32
        number = int(item["group"])
        assert number in (2, 5)
        pairs = dict(bindings(item))
        assert len(pairs) == len(set(pairs.values())) == number
        assert all(1 <= key < 32 <= value < 64 for key, value in pairs.items())
        context = 2 * number * passes
        shown = item["inputs"][:context].reshape(passes, 2 * number)
        assert (shown == shown[0]).all()
        queried = np.flatnonzero(item["targets"] >= 0)
        assert (queried >= context).all() and ((queried - context) % 2 == 0).all()
        asked = dict(zip(item["inputs"][queried], item["targets"][queried], strict=True))
        assert asked == pairs
        rest = np.setdiff1d(np.arange(context, 64), queried)
        assert (item["inputs"][rest] == 0).all()


def test_an_example_depends_on_seed_split_and_index_alone():
    source = EASY.source(0, "train")
    later = source[10**12]
    source[3]
    again = EASY.source(0, "train")[10**12]
    assert all((later[name] == again[name]).all() for name in later)
    others = [source[4], EASY.source(1, "train")[3], EASY.source(0, "test")[3]]
    assert all((source[3]["inputs"] != other["inputs"]).any() for other in others)
    assert len(source) > 10**12


def test_numbers_of_pairs_are_drawn_evenly():
    source = EASY.source(0, "train")
    counts = np.bincount([source[index]["group"] for index in range(3000)])
    assert np.allclose(counts[[2, 4, 8]], 1000, atol=120)


def test_no_set_of_bindings_is_in_both_splits():
    """Small enough that both splits see nearly all there is, at different lengths and seeds."""
    short = MQARConfig(length=8, num_pairs=(2,), vocab_size=8)
    long = MQARConfig(length=32, num_pairs=(2,), vocab_size=8, filler="random")
    train, test = short.source(0, "train"), long.source(1, "test")
    seen = [{bindings(source[index]) for index in range(1000)} for source in (train, test)]
    everything = {
        frozenset(zip(keys, values, strict=True))
        for keys in itertools.permutations(range(1, 4), 2)
        for values in itertools.permutations(range(4, 8), 2)
    }
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == everything


def test_gaps_follow_the_power_law():
    """The first key's slot is a single draw from p(g) ~ (g + 1)^(power - 1)."""
    for power in (0.01, 1.0):
        source = MQARConfig(length=40, num_pairs=(2,), vocab_size=64, power=power).source(0, "test")
        counts = np.zeros(18)
        for index in range(6000):
            item = source[index]
            position = 4 + np.flatnonzero(item["inputs"][4:] == item["inputs"][0])[0]
            counts[(position - 4) // 2] += 1
        expected = np.arange(1.0, 19) ** (power - 1)
        first = expected / expected.sum()
        assert np.abs(counts / 6000 - first).max() < 0.02


def test_random_filler_fills_zeros_and_changes_nothing_else():
    plain = EASY.source(0, "train")
    filled = MQARConfig(length=64, num_pairs=(2, 4, 8), vocab_size=64, filler="random")
    tokens = []
    for index in range(100):
        before, after = plain[index], filled.source(0, "train")[index]
        assert (before["targets"] == after["targets"]).all()
        content = before["inputs"] != 0
        assert (before["inputs"][content] == after["inputs"][content]).all()
        tokens.extend(after["inputs"][~content].tolist())
    assert set(tokens) == set(range(64))


def test_chance_is_one_over_the_number_of_values():
    assert EASY.chance == 1 / 32
    assert MQARConfig(length=8, num_pairs=(1,), vocab_size=9).chance == 1 / 5


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 31}, ValueError, r"MQAR\.length: 8 pairs .* need 32 .*; raise length to 32"),
        ({"length": 32, "passes": 2}, ValueError, "need 48"),
        ({"vocab_size": 16}, ValueError, r"hold 7 keys.*raise vocab_size to 18"),
        ({"num_pairs": 8}, TypeError, r"num_pairs: 8 is not a tuple.*\(8,\)"),
        ({"num_pairs": (8, 0)}, ValueError, "num_pairs: 0"),
        ({"num_pairs": (8.0,)}, TypeError, "8.0 is not an integer"),
        ({"filler": "noise"}, ValueError, "'zero' or 'random'"),
        ({"power": 0.0}, ValueError, "power: 0.0"),
        ({"length": "64"}, TypeError, "length: '64'"),
        ({"passes": True}, TypeError, "passes: True"),
    ],
)
def test_errors_name_the_field_and_the_remedy(fields, error, words):
    with pytest.raises(error, match=words):
        MQARConfig(**({"length": 64, "num_pairs": (8,)} | fields))


def test_a_vocabulary_just_large_enough_is_taken():
    assert MQARConfig(length=32, num_pairs=(8,), vocab_size=18).source(0, "train")[0]["group"] == 8


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_smallest_vocabularies_have_bindings_for_both_splits(split):
    for vocab_size in range(4, 16):
        for number in range(1, vocab_size // 2):
            config = MQARConfig(4 * number, (number,), vocab_size)
            assert config.source(0, split)[0]["group"] == number


def test_a_source_refuses_unknown_splits_negative_seeds_and_indices_out_of_range():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        EASY.source(0, "validation")
    with pytest.raises(ValueError, match="seed"):
        EASY.source(-1, "train")
    with pytest.raises(IndexError):
        EASY.source(0, "train")[-1]
