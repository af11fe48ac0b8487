"""Streams hold their facts where they say, and nothing else that answers the questions."""

import numpy as np
import pytest

from bmojo.data.haystack import HaystackConfig
from bmojo.data.mad import NoisyMQARConfig

TASK = NoisyMQARConfig(length=256, num_pairs=(8,))
CONTENT = TASK.vocab_size - TASK.noise_vocab
HALF = CONTENT // 2


def pairs(stream, start, stop):
    return stream.tokens[start:stop].reshape(-1, 2)


def test_facts_filler_questions():
    stream = HaystackConfig(facts=8, filler=400, distractors=0.5).make(TASK, 3)
    assert len(stream.tokens) == 16 + 400 + 16
    facts = dict(pairs(stream, 0, 16).tolist())
    assert len(facts) == 8
    assert stream.asked.tolist() == list(range(416, 432, 2))
    for place, answer in zip(stream.asked, stream.answers[-1], strict=True):
        assert stream.tokens[place + 1] == answer == facts[int(stream.tokens[place])]
    filler = pairs(stream, 16, 416)
    told = filler[filler[:, 0] < CONTENT]
    assert 60 < len(told) < 140
    assert not set(told[:, 0].tolist()) & facts.keys()
    assert (told[:, 0] < HALF).all() and (told[:, 1] >= HALF).all() and (told[:, 1] < CONTENT).all()
    noise = filler[filler[:, 0] >= CONTENT]
    assert (noise < TASK.vocab_size).all() and (noise >= CONTENT).all()


def test_the_last_of_several_values_is_right():
    stream = HaystackConfig(facts=4, filler=300, versions=3, distractors=0.0).make(TASK, 1)
    told = {}
    for first, second in stream.tokens[: stream.asked[0]].reshape(-1, 2).tolist():
        if first < HALF:
            told.setdefault(first, []).append(second)
    asked = stream.tokens[stream.asked].tolist()
    assert {key: told[key] for key in asked} == told
    for i, key in enumerate(asked):
        assert stream.answers[:, i].tolist() == told[key]
        assert len(set(told[key])) == 3
        assert stream.tokens[stream.asked[i] + 1] == told[key][-1]


def test_same_seed_same_stream():
    config = HaystackConfig(filler=100)
    assert config.make(TASK, 5).tokens.tobytes() == config.make(TASK, 5).tokens.tobytes()
    assert config.make(TASK, 5).tokens.tobytes() != config.make(TASK, 6).tokens.tobytes()
    assert config.make(TASK, 0).tokens.dtype == np.int32


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"facts": 0}, "Haystack.facts: 0 is too small"),
        ({"filler": -1}, "Haystack.filler"),
        ({"distractors": 1.0}, "Haystack.distractors"),
        ({"facts": HALF - 1}, "Haystack.facts: 119 facts leave none of the 119 keys"),
        ({"versions": 121}, "Haystack.versions: there are 120 values"),
    ],
)
def test_what_cannot_be(sizes, message):
    with pytest.raises(ValueError, match=message):
        HaystackConfig(**sizes).make(TASK, 0)
