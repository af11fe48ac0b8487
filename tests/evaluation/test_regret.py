"""Regret of predictors of which it is known."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.data.universal.markov import MarkovConfig
from bmojo.data.universal.programs import ProgramsConfig
from bmojo.evaluation.outputs import plot_regret, regret_table
from bmojo.evaluation.regret import NEAR, Costs, by_length, by_position, costs
from bmojo.experiment import load
from bmojo.training.parameters import split

OVERLAYS = ["models/mamba.gin", "runs/smoke.gin"]


@functools.cache
def untrained(name):
    """Config text and an untrained model of a source."""
    experiment, text = load(
        f"experiments/solomonoff/{name}.gin", ["Trainer.compilation_cache=False"], OVERLAYS
    )
    return text, jax.jit(lambda: experiment.model.make(nnx.Rngs(0)))()


def uniform(name):
    """A model whose parameters are all zero, so that it knows nothing."""
    structure, parameters = nnx.split(untrained(name)[1])
    return nnx.merge(structure, jax.tree.map(lambda x: 0 * x, parameters))


@pytest.mark.parametrize(
    ("name", "config"),
    [("markov", MarkovConfig(70, depth=3)), ("programs", ProgramsConfig(70, longest=3))],
)
def test_who_knows_nothing_pays_the_logarithm_of_the_vocabulary(name, config):
    source = config.source(0, "test")
    found = costs(uniform(name), source, 5, segment_length=32, batch_size=3)
    np.testing.assert_allclose(found.model, np.log2(config.vocab_size), rtol=1e-6)
    sequences = source.sequences(5)
    np.testing.assert_array_equal(found.oracle, source.oracle_bits(sequences))
    np.testing.assert_array_equal(found.source, source.source_bits(sequences))
    np.testing.assert_array_equal(found.groups, sequences.groups)
    for row in by_length(found, (1, 30, 70)):
        needed = row["length"] * np.log2(config.vocab_size)
        assert row["regret"] == pytest.approx(needed - row["oracle"], rel=1e-5)


def test_the_model_is_asked_for_every_symbol_after_all_those_before():
    """Costs by segments are those of the parallel form from the begin token on."""
    config = MarkovConfig(50, depth=3)
    source = config.source(0, "test")
    model = untrained("markov")[1]
    found = costs(model, source, 3, segment_length=16, batch_size=2)
    for row in range(3):
        item = source[row]
        logits = np.asarray(model(item["inputs"][None])[0], np.float64)
        expected = -np.asarray(jax.nn.log_softmax(logits))[0, np.arange(50), item["targets"]]
        np.testing.assert_allclose(found.model[row], expected / np.log(2), rtol=1e-4)


def made(extra=0.0):
    """Costs of a model that needs a share more than the oracle at every place."""
    rng = np.random.default_rng(0)
    oracle = rng.uniform(0.1, 1, (6, 40))
    groups = np.array([1, 2, 1, 4, 2, 1])
    return Costs(oracle * (1 + extra), oracle, 0.9 * oracle, groups)


def test_the_oracle_has_no_regret():
    found = made()
    for row in by_length(found, (10, 40)):
        assert row["regret"] == row["excess"] == 0
        assert row["near"]
    assert {row["regret"] for row in by_position(found)} == {0}


@pytest.mark.parametrize("extra", [-0.1, 0.9 * NEAR, 1.1 * NEAR])
def test_rows_by_length_and_group(extra):
    found = made(extra)
    rows = {(row["length"], row["group"]): row for row in by_length(found, (40, 10))}
    assert list(rows) == [(n, g) for n in (10, 40) for g in (1, 2, 4, None)]
    assert [rows[40, g]["sequences"] for g in (1, 2, 4, None)] == [3, 2, 1, 6]
    for (length, group), row in rows.items():
        chosen = slice(None) if group is None else found.groups == group
        oracle = found.oracle[chosen, :length].sum(1)
        assert row["oracle"] == pytest.approx(oracle.mean())
        assert row["source"] == pytest.approx(0.9 * oracle.mean())
        assert row["regret"] == pytest.approx(extra * oracle.mean())
        assert row["excess"] == pytest.approx(extra)
        assert row["near"] == (extra < NEAR)
        if group == 4:
            assert row["stderr"] is None
        else:
            spread = abs(extra) * oracle.std(ddof=1)
            assert row["stderr"] == pytest.approx(spread / len(oracle) ** 0.5)
    with pytest.raises(ValueError, match="length: 41 is not among 1 .. 40"):
        by_length(found, (41,))


def test_rows_by_position_add_up():
    found = made(0.2)
    rows = by_position(found, 10)
    assert [row["start"] for row in rows[1:]] == [row["stop"] for row in rows[:-1]]
    assert 10 in {row["start"] for row in rows}
    assert sum((r["stop"] - r["start"]) * r["regret"] for r in rows) == pytest.approx(
        rows[-1]["total"]
    )
    assert rows[-1]["total"] == pytest.approx(by_length(found, (40,))[-1]["regret"])


def test_what_is_shown():
    found = made(0.2)
    rows = by_length(found, (10, 40))
    assert regret_table(rows, "leaves_up_to").row_count == 8
    figure = plot_regret(rows, by_position(found, 10), "leaves_up_to", 10)
    assert [axis.get_xlabel() for axis in figure.axes] == ["position", "symbols", "leaves up to"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, model = untrained("markov")
    Path("run").mkdir()
    Path("run/config.gin").write_text(text)
    monkeypatch.setattr("bmojo.runs.restore_parameters", lambda *_: (7, split(model)[1], {}))
    return "run"


def test_command(here):
    options = ("regret", "--length", "24", "--length", "48", "--sequences", "6")
    result = CliRunner().invoke(app, ["eval", here, *options])
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/regret.json").read_text())
    assert (found["step"], found["sequences"], found["training_length"]) == (7, 6, 256)
    assert found["counted"] == "leaves_up_to"
    assert {row["length"] for row in found["rows"]} == {24, 48}
    assert found["positions"][-1]["stop"] == 48
    total = next(r for r in found["rows"] if (r["length"], r["group"]) == (48, None))
    assert total["sequences"] == 6
    assert total["regret"] == pytest.approx(found["positions"][-1]["total"])
    source = MarkovConfig(48).source(0, "test")
    oracle = source.oracle_bits(source.sequences(6)).sum(1).mean()
    assert total["oracle"] == pytest.approx(oracle)
    assert Path("run/evaluation/regret.png").exists()


def test_a_task_without_a_known_predictor_is_refused(here):
    _, text = load("experiments/mqar.gin", overlays=OVERLAYS)
    Path("run/config.gin").write_text(text)
    result = CliRunner().invoke(app, ["eval", here, "regret"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: regret: run was not trained on a task whose")
    assert result.stderr.count("\n") == 1
