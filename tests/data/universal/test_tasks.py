"""The tasks: examples by number, splits, and codes in bits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bmojo import config as configs
from bmojo.data.universal.machine import Machine
from bmojo.data.universal.markov import MarkovConfig, weighted
from bmojo.data.universal.programs import ProgramsConfig
from bmojo.experiment import REGISTRY

CONFIGS = Path(__file__).parent.parent.parent.parent / "configs"
MODELS = sorted(path.stem for path in CONFIGS.glob("models/*.gin"))
TASKS = {
    "markov": MarkovConfig(40, depth=4),
    "programs": ProgramsConfig(40, longest=3),
}


def bucket(number):
    """The smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


each_task = pytest.mark.parametrize("name", TASKS)


@each_task
def test_inputs_are_the_targets_moved_behind_the_begin_token(name):
    config = TASKS[name]
    source = config.source(0, "train")
    groups = set()
    for index in range(60):
        item = source[index]
        assert set(item) == {"inputs", "targets", "group"}
        assert item["inputs"].dtype == item["targets"].dtype == item["group"].dtype == np.int32
        assert item["inputs"][0] == config.vocab_size - 1
        assert item["inputs"][1:].tolist() == item["targets"][:-1].tolist()
        assert 0 <= item["targets"].min() <= item["targets"].max() < config.vocab_size - 1
        assert len(item["targets"]) == 40
        groups.add(int(item["group"]))
    assert len(groups) > 2
    assert all(group == bucket(group) for group in groups)
    assert config.chance == 1 / (config.vocab_size - 1)


@each_task
def test_an_example_depends_on_seed_split_and_index_alone(name):
    config = TASKS[name]
    source = config.source(0, "train")
    later = source[10**12]
    again = dataclasses.replace(config).source(0, "train")[10**12]
    assert all((later[key] == again[key]).all() for key in later)
    others = [config.source(1, "train"), config.source(0, "test")]
    for other in others:
        assert any((source[i]["targets"] != other[i]["targets"]).any() for i in range(8))


@each_task
def test_sequences_are_the_examples(name):
    source = TASKS[name].source(5, "test")
    sequences = source.sequences(9)
    assert sequences.symbols.shape == (9, 40)
    for index in range(9):
        item = source[index]
        assert item["targets"].tolist() == sequences.symbols[index].tolist()
        assert item["group"] == sequences.groups[index]
    assert source.oracle_bits(sequences).shape == source.source_bits(sequences).shape == (9, 40)


@each_task
def test_short_sequences_are_the_beginning_of_long_ones(name):
    """But for programs that fall silent in between."""
    config = TASKS[name]
    short, long = (c.source(0, "test") for c in (config, dataclasses.replace(config, length=90)))
    same = [(short[i]["targets"] == long[i]["targets"][:40]).all() for i in range(40)]
    assert np.mean(same) > 0.9


def test_trees_of_the_splits_differ_and_programs_too():
    for config, content in (
        (MarkovConfig(4, depth=2), lambda tree: (*tree.levels, *tree.ones)),
        (ProgramsConfig(4), tuple),
    ):
        seen = [
            set(map(content, config.source(seed, split).sequences(300).origins))
            for seed, split in ((0, "train"), (1, "test"))
        ]
        assert not seen[0] & seen[1]
        assert min(map(len, seen)) > 50


def test_the_source_of_markov_sequences_gains_on_the_oracle():
    source = MarkovConfig(200, depth=4).source(0, "test")
    sequences = source.sequences(200)
    gain = (source.oracle_bits(sequences) - source.source_bits(sequences)).sum(1)
    assert gain.mean() > 2
    leaves = sequences.groups
    assert gain[leaves >= 8].mean() > gain[leaves == 1].mean() > 0
    expected = weighted(sequences.symbols, 4)
    chosen = np.where(sequences.symbols == 1, expected[..., 1], expected[..., 0])
    np.testing.assert_allclose(source.oracle_bits(sequences), -np.log2(chosen))


def test_a_coin_is_predicted_by_the_estimator_of_krichevsky_and_trofimov():
    source = MarkovConfig(3, depth=3, split=0.0).source(0, "test")
    sequences = source.sequences(20)
    assert (sequences.groups == 1).all()
    for row, bits in zip(sequences.symbols.tolist(), source.oracle_bits(sequences), strict=True):
        ones = [0, *np.cumsum(row)[:2]]
        counts = [k if x else n - k for n, (k, x) in enumerate(zip(ones, row, strict=True))]
        chances = [(c + 0.5) / (n + 1) for n, c in enumerate(counts)]
        np.testing.assert_allclose(2.0**-bits, chances)


def test_programs_write_their_examples_and_cost_their_length():
    config = TASKS["programs"]
    source = config.source(0, "test")
    sequences = source.sequences(60)
    machine = Machine(4, 16, 256)
    bits, oracle = source.source_bits(sequences), source.oracle_bits(sequences)
    for row, program in enumerate(sequences.origins):
        written = machine.run(program.tolist(), 40)
        assert written.first(40).tolist() == sequences.symbols[row].tolist()
        assert bits[row].sum() == bits[row, 0] == pytest.approx(3 * len(program) + 3)
        assert sequences.groups[row] == bucket(len(program))
        if len(program) <= config.longest:
            assert oracle[row].sum() < bits[row, 0]
    assert (oracle > 0).all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MarkovConfig(0), ValueError, r"Markov\.length: 0 is too small"),
        (lambda: MarkovConfig(8, depth=13), ValueError, r"depth: 13 is too large; give at most 12"),
        (lambda: MarkovConfig(8, split=1.0), ValueError, r"split: 1\.0 is out of range"),
        (lambda: ProgramsConfig(8, symbols=9), ValueError, r"symbols: 9 is too large"),
        (lambda: ProgramsConfig(8, symbols=1), ValueError, r"symbols: 1 is too small"),
        (lambda: ProgramsConfig(8, end=0), ValueError, r"end: 0 lets no program end"),
        (lambda: ProgramsConfig(8, end=1), ValueError, r"end: 1 is out of range"),
        (lambda: ProgramsConfig(8, longest=9), ValueError, r"Programs\.longest: 9 is too large"),
        (lambda: ProgramsConfig(8, silence="x"), TypeError, r"silence: 'x' is not an integer"),
    ],
)
def test_errors_name_the_field_and_the_remedy(make, error, words):
    with pytest.raises(error, match=words):
        make()


@each_task
def test_every_source_has_an_experiment_with_every_model(name):
    """Of which the model is that of MQAR but for the vocabulary."""
    path = CONFIGS / f"experiments/solomonoff/{name}.gin"
    assert f"bmojo train {path.relative_to(CONFIGS.parent)}" in path.read_text()
    tasks = set()
    for model in MODELS:
        overlay = f"models/{model}.gin"
        made = configs.load(REGISTRY, "Experiment", [path, overlay], []).value
        alike = configs.load(REGISTRY, "Experiment", ["experiments/mqar.gin", overlay], []).value
        vocab_size = alike.model.vocab_size
        assert dataclasses.replace(made.model, vocab_size=vocab_size) == alike.model
        parts = (*made.curriculum, *made.evaluations)
        assert {part.data.vocab_size for part in parts} == {made.model.vocab_size}
        assert all(isinstance(part.data, type(TASKS[name])) for part in parts)
        tasks.add((made.optimizer, made.curriculum, made.evaluations))
    assert len(tasks) == 1
