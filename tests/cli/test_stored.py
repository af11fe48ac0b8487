"""What a user of --memory sees: it stays from command to command, and nothing is stored unasked."""

import json
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from bmojo.experiment import load
from bmojo.training.parameters import split

SMALL = ["WINDOW=8", "BMojo.num_eidetic=2", "BMojo.num_fading=2", "Model.d_model=16"]
SMALL += ["Model.parameters=None", "MLP.d_ff=16", "Trainer.compilation_cache=False"]
IDS = " ".join(str(1 + (7 * i) % 90) for i in range(60))
GREEDY = ("--max-new-tokens", "4", "--temperature", "0")


@pytest.fixture(scope="session")
def drawn():
    experiment, text = load("experiments/needles.gin", SMALL, ["runs/smoke.gin"])
    return text, jax.jit(lambda: experiment.model.make(nnx.Rngs(0)))()


@pytest.fixture
def needles(tmp_path, monkeypatch, drawn):
    """A run of B'MOJO on noisy recall that was not trained."""
    monkeypatch.chdir(tmp_path)
    text, model = drawn
    Path("run").mkdir()
    Path("run/config.gin").write_text(text)
    monkeypatch.setattr("bmojo.runs.restore_parameters", lambda *_: (7, split(model)[1], {}))
    return "run"


def entries(bmojo, directory):
    told = bmojo("memory", "stats", directory, "--json")
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def test_what_was_read_is_found_by_a_later_command(bmojo, needles):
    assert bmojo("generate", needles, "--ids", IDS, *GREEDY).exit_code == 0
    assert not Path("s").exists()
    first = bmojo("generate", needles, "--ids", IDS, *GREEDY, "--memory", "s")
    assert first.exit_code == 0, first.output
    count = entries(bmojo, "s")["entries"]
    options = ("--memory", "s", "--memory-read-only")
    again = [bmojo("generate", needles, "--ids", "1 2 3", *GREEDY, *options) for _ in range(2)]
    assert again[0].exit_code == 0, again[0].output
    assert again[0].stdout == again[1].stdout
    drawn = ("generate", needles, "--ids", IDS, "--max-new-tokens", "12")
    assert bmojo(*drawn, *options).stdout != bmojo(*drawn).stdout
    assert entries(bmojo, "s")["entries"] == count
    more = bmojo("generate", needles, "--ids", IDS, *GREEDY, "--memory", "s")
    assert more.exit_code == 0, more.output
    assert entries(bmojo, "s")["entries"] > count
    assert bmojo("memory", "verify", "s").exit_code == 0


def test_generated_tokens_are_remembered_too(bmojo, needles):
    result = bmojo(
        "generate", needles, "--ids", IDS, *GREEDY, "--memory", "s", "--memory-threshold", "0"
    )
    assert result.exit_code == 0, result.output
    shown = entries(bmojo, "s")
    assert shown["clock"] == 64, shown
    assert shown["entries"] == 2 * 64, shown


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--memory", "s", "--batch", "2"], "--batch: with --memory prompts are read one by one"),
        (["--memory-read-only"], "--memory-read-only: there is no store"),
        (["--memory", "s", "--memory-every", "3"], "--memory-every: cells of 3 tokens do not"),
        (["--memory", "run"], "run"),
    ],
)
def test_what_cannot_be(bmojo, needles, options, error):
    result = bmojo("generate", needles, "--ids", "1 2 3", *options)
    assert result.exit_code == 2, result.output
    assert error in result.stderr
    assert not Path("s").exists()


def test_a_model_without_slots(bmojo, here):
    result = bmojo("generate", here, "--ids", "1 2 3", "--memory", "s")
    assert result.exit_code == 2
    assert "no layer of the model has eidetic slots" in result.stderr
    assert not Path("s").exists()


def test_needles_and_drift(bmojo, needles):
    options = ("needles", "drift", "--length", "64", "--streams", "1")
    result = bmojo("eval", needles, *options)
    assert result.exit_code == 0, result.output
    rows = json.loads(Path("run/evaluation/needles.json").read_text())["rows"]
    assert [row["store"] for row in rows] == [False, True]
    assert rows[1]["entries"] > 0 and rows[0]["entries"] == 0
    rows = json.loads(Path("run/evaluation/drift.json").read_text())["rows"]
    assert [row["half_life"] for row in rows] == [None, None, 4096.0, 1024.0, 256.0, 64.0]
    assert re.search("a former value", result.stdout)
    for name in ("needles", "drift"):
        assert Path(f"run/evaluation/{name}.png").stat().st_size > 10_000


def test_needles_need_their_task(bmojo, here):
    result = bmojo("eval", here, "needles")
    assert result.exit_code == 2
    assert "run: it was not trained on NoisyMQAR" in result.stderr


def test_memory_goes_with_perplexity(bmojo, needles):
    result = bmojo("eval", needles, "length", "--memory", "s")
    assert result.exit_code == 2
    assert "--memory: length has no such option; it belongs to perplexity" in result.stderr


def test_reading_with_a_store_that_stays(bmojo, needles):
    import numpy as np

    Path("books").mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        ids = np.random.default_rng(seed).integers(0, 200, 80)
        np.save(f"books/{name}.npy", ids.astype(np.int32))
    options = ("perplexity", "--documents", "books", "--memory", "s")
    result = bmojo("eval", needles, *options)
    assert result.exit_code == 0, result.output
    first = json.loads(Path("run/evaluation/perplexity_memory.json").read_text())["documents"]
    assert [row["tokens"] for row in first] == [80, 80]
    assert bmojo("eval", needles, *options).exit_code == 0
    second = json.loads(Path("run/evaluation/perplexity_memory.json").read_text())["documents"]
    assert second[0]["entries"] > first[1]["entries"] > first[0]["entries"] > 0
    assert second[0]["loss"] != first[0]["loss"]


def test_rereading(bmojo, needles):
    import numpy as np

    Path("books").mkdir()
    for name in "ab":
        np.save(f"books/{name}.npy", np.arange(70, dtype=np.int32))
    result = bmojo("eval", needles, "rereading", "--documents", "books", "--length", "64")
    assert result.exit_code == 0, result.output
    rows = json.loads(Path("run/evaluation/rereading.json").read_text())["rows"]
    assert len(rows) == 2 and rows[0]["tokens"] == 64
    assert rows[0]["alone"] == pytest.approx(rows[1]["other_alone"])
    few = bmojo("eval", needles, "rereading", "--documents", "books", "--length", "71")
    assert few.exit_code == 2 and "rereading: 0 documents have 71 tokens" in few.stderr
