"""What holds for every synthetic task but those that have tests of their own."""

import dataclasses
import inspect
import itertools
import re

import numpy as np
import pytest

from bmojo.data.in_context_regression import InContextRegressionConfig
from bmojo.data.induction_heads import InductionHeadsConfig
from bmojo.data.mad import (
    CompressionConfig,
    FuzzyMQARConfig,
    MemorizationConfig,
    NoisyMQARConfig,
    SelectiveCopyingConfig,
)
from bmojo.data.mqar import MQARConfig
from bmojo.data.synthetic import Bindings, binding_checksum, sequence_checksum
from bmojo.data.universal.markov import MarkovConfig
from bmojo.data.universal.programs import ProgramsConfig
from bmojo.experiment import REGISTRY
from tests.data import solvers

TASKS = {
    "compression": CompressionConfig(40, (4, 16), gap=3),
    "fuzzy_mqar": FuzzyMQARConfig(64, (2, 6), vocab_size=24),
    "in_context_regression": InContextRegressionConfig(64, (4, 12)),
    "induction_heads": InductionHeadsConfig(32),
    "memorization": MemorizationConfig(16, vocab_size=21),
    "noisy_mqar": NoisyMQARConfig(64, (2, 8), vocab_size=40, noise=0.3, noise_vocab=8),
    "selective_copying": SelectiveCopyingConfig(48, (2, 8), vocab_size=12, noise_vocab=3),
}

# name: (a config with little content, the content of an example, all that there is)
SMALL = {
    "compression": (
        CompressionConfig(5, (2,), vocab_size=7, data_vocab=3),
        lambda inputs: tuple(inputs[:2]),
        set(itertools.product((2, 3, 4), repeat=2)),
    ),
    "fuzzy_mqar": (
        FuzzyMQARConfig(8, (1,), vocab_size=7, key_tokens=2, value_tokens=1),
        lambda inputs: tuple(inputs[: 1 + np.argmax(inputs >= 3)]),
        {
            (*key, value)
            for size in (1, 2)
            for key in itertools.permutations((1, 2), size)
            for value in (3, 4, 5, 6)
        },
    ),
    "induction_heads": (
        InductionHeadsConfig(4, vocab_size=4),
        tuple,
        {(0, a, b, 0) for a in (1, 2, 3) for b in (1, 2, 3)}
        | {(a, 0, b, 0) for a in (1, 2, 3) for b in (1, 2, 3)},
    ),
    "memorization": (
        MemorizationConfig(4, vocab_size=7),
        lambda inputs: tuple(inputs[::2]),
        set(itertools.product((1, 2, 3), repeat=2)),
    ),
    "noisy_mqar": (
        NoisyMQARConfig(8, (1,), vocab_size=10, noise=0.5, noise_vocab=2),
        lambda inputs: tuple(inputs[inputs < 8][:2]),
        set(itertools.product((1, 2, 3), (4, 5, 6, 7))),
    ),
    "selective_copying": (
        SelectiveCopyingConfig(8, (2,), vocab_size=5),
        lambda inputs: tuple(inputs[:5][inputs[:5] > 0]),
        set(itertools.product((2, 3, 4), repeat=2)),
    ),
}

each_task = pytest.mark.parametrize("name", TASKS)


@pytest.mark.parametrize(
    "config",
    [*TASKS.values(), MQARConfig(16, (2,)), MarkovConfig(16), ProgramsConfig(16)],
    ids=repr,
)
def test_the_picture_in_the_docstring_is_the_example_it_names(config):
    drawing = inspect.getdoc(type(config))
    text = " ".join(drawing.split())
    call = re.search(rf"``{type(config).__name__}\((.*?)\)``", text).group(1)
    drawn = {
        words[0]: words[1:]
        for words in map(str.split, drawing.splitlines())
        if words and words[0] in ("inputs", "targets")
    }
    fields = eval(f"dict({call})")
    item = type(config)(**fields).source(0, "train")[int(re.search(r"example (\d+)::", text)[1])]
    assert {key: list(map(int, words)) for key, words in drawn.items()} == {
        key: item[key].tolist() for key in ("inputs", "targets")
    }


@each_task
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_program_answers_every_question_from_the_inputs_alone(name, split):
    config, solve = TASKS[name], getattr(solvers, name)
    source = config.source(3, split)
    right = asked = 0
    for index in range(60):
        item = source[index]
        expected = solve(config, item["inputs"])
        assert ((expected < 0) == (item["targets"] < 0)).all()
        right += (expected == item["targets"])[item["targets"] >= 0].sum()
        asked += (item["targets"] >= 0).sum()
    assert asked >= 60
    if name == "in_context_regression":
        assert right / asked > 0.75 > 4 * config.chance
    else:
        assert right == asked


@each_task
def test_items_are_int32_below_the_vocabulary_and_groups_are_what_the_config_names(name):
    config = TASKS[name]
    source = config.source(0, "train")
    assert len(source) == 2**48
    groups = set()
    for index in range(100):
        item = source[index]
        assert set(item) == {"inputs", "targets", "group"}
        assert item["inputs"].shape == item["targets"].shape == (config.length,)
        assert item["inputs"].dtype == item["targets"].dtype == item["group"].dtype == np.int32
        assert 0 <= item["inputs"].min() <= item["inputs"].max() < config.vocab_size
        assert -1 <= item["targets"].min() <= item["targets"].max() < config.vocab_size
        groups.add(int(item["group"]))
    named = getattr(config, config.slices, None)
    if isinstance(named, tuple):
        assert groups == set(named)
    elif named is not None:
        assert groups == {named}
    else:
        assert config.slices == "distance"


@each_task
def test_an_example_depends_on_seed_split_and_index_alone(name):
    config = TASKS[name]
    source = config.source(0, "train")
    later = source[10**12]
    source[3]
    again = dataclasses.replace(config).source(0, "train")[10**12]
    assert all((later[key] == again[key]).all() for key in later)
    others = [source[4], config.source(1, "train")[3], config.source(0, "test")[3]]
    assert all((source[3]["inputs"] != other["inputs"]).any() for other in others)


@each_task
def test_chance_is_one_over_the_answers_there_are(name):
    config = TASKS[name]
    source = config.source(0, "test")
    targets = np.concatenate([source[index]["targets"] for index in range(1000)])
    counts = np.bincount(targets[targets >= 0])
    counts = counts[counts > 0]
    if name == "in_context_regression":
        assert config.chance == pytest.approx(counts.max() / counts.sum(), abs=0.01)
        assert config.chance > 1 / config.bins
    else:
        assert config.chance == 1 / len(counts)
        assert counts.max() / counts.sum() < 1.6 * config.chance


@pytest.mark.parametrize("name", SMALL)
def test_no_content_is_in_both_splits(name):
    """So little that both see all there is, under different seeds."""
    config, content, everything = SMALL[name]
    sources = config.source(0, "train"), config.source(1, "test")
    seen = [{content(source[index]["inputs"]) for index in range(400)} for source in sources]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == everything
    assert min(map(len, seen)) > 0


def test_shown_examples_of_regression_are_in_one_split():
    """One coordinate and two bins: four examples of an x and its y that can be shown."""
    config = InContextRegressionConfig(4, (1,), vocab_size=5, dimensions=1, queries=1)
    sources = config.source(0, "train"), config.source(1, "test")
    seen = [{tuple(source[i]["inputs"][:2].tolist()) for i in range(200)} for source in sources]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {(1, 3), (1, 4), (2, 3), (2, 4)}


def test_a_split_without_examples_is_refused():
    """The checksums of both sequences of one data token, 4 and 5, are of the test split."""
    config = SelectiveCopyingConfig(4, (1,), vocab_size=6, noise_vocab=3)
    config.source(0, "test")[0]
    with pytest.raises(ValueError, match=r"SelectiveCopying\.vocab_size: too few .* train split"):
        config.source(0, "train")[0]


@each_task
def test_sources_refuse_unknown_splits_negative_seeds_and_indices_out_of_range(name):
    config = TASKS[name]
    with pytest.raises(ValueError, match="'train' or 'test'"):
        config.source(0, "validation")
    with pytest.raises(ValueError, match="seed"):
        config.source(-1, "train")
    for index in (-1, 2**48):
        with pytest.raises(IndexError, match=str(index)):
            config.source(0, "train")[index]


def test_configs_may_name_every_task():
    for config in TASKS.values():
        assert REGISTRY[type(config).__name__.removesuffix("Config")] is type(config)


def test_checksums_see_bindings_but_not_their_order():
    bindings = Bindings(64)
    keys, values = bindings.draw(np.random.default_rng(0), 5)
    checksum = bindings.checksum((keys, values))
    assert checksum == bindings.checksum((keys[::-1], values[::-1]))
    assert checksum != bindings.checksum((keys, values[::-1]))
    assert checksum == binding_checksum(keys.astype(np.uint64), values.astype(np.uint64))


def test_checksums_of_sequences_see_order_and_length():
    sequences = [np.array(tokens) for tokens in ([1, 2], [2, 1], [1, 2, 0], [1], [1, 1])]
    assert len({sequence_checksum(tokens) for tokens in sequences}) == len(sequences)
