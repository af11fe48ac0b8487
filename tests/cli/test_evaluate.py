"""Output and files of `bmojo eval RUN KIND`."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.experiment import load
from bmojo.training.parameters import split
from tests.cli.conftest import OVERLAYS
from tests.evaluation.byte_tokenizer import Bytes

RECALL = (
    "recall/MQAR.length=32",
    "recall/MQAR.num_pairs=(2, 4)",
    "recall/Evaluation.batch_size=4",
)


def test_perplexity_and_length(bmojo, here):
    Path("docs").mkdir()
    for number, size in enumerate((700, 40)):
        ids = np.random.default_rng(number).integers(0, 256, size)
        np.save(f"docs/{number}.npy", ids)
    lengths = ("--context", "32", "--length", "512")
    result = bmojo("eval", here, "perplexity", "length", *lengths, "--documents", "docs")
    assert result.exit_code == 0, result.output
    assert "run, step 7" in result.stdout
    found = json.loads(Path("run/evaluation/perplexity.json").read_text())
    rows = {row["context"]: row for row in found["contexts"]}
    assert [rows[c]["windows"] for c in (32, 512)] == [3, 1]
    assert [rows[c]["documents_too_short"] for c in (32, 512)] == [0, 1]
    assert found["positions"][-1]["stop"] == 512
    found = json.loads(Path("run/evaluation/length.json").read_text())
    assert found["training_length"] == 256
    changes = {row["start"]: row["change"] for row in found["positions"]}
    assert changes[128] is None
    assert changes[256] is not None
    for name in ("perplexity", "length"):
        assert Path(f"run/evaluation/{name}.png").exists()
        assert f"run/evaluation/{name}.png" in result.stdout


def test_bits_per_byte_of_text(bmojo, prose):
    Path("docs").mkdir()
    Path("docs/a.txt").write_text("some prose")
    Path("docs/b.jsonl").write_text('{"text": "more of it"}\n\n{"text": "and"}\n')
    options = ("perplexity", "--context", "4", "--documents", "docs")
    result = bmojo("eval", prose, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/perplexity.json").read_text())
    (row,) = found["contexts"]
    assert found["documents"] == 3
    assert row["bits_per_byte"] == pytest.approx(row["loss"] / np.log(2), rel=0.2)


def test_ngrams(bmojo, prose, monkeypatch):
    """A line that the training text has not, three times: new at first, then 16 bytes ago."""
    training = [np.frombuffer(b"ordinary prose, and nothing else", np.uint8)]
    monkeypatch.setattr("bmojo.cli.evaluate.training_documents", lambda *_: training)
    Path("docs").mkdir()
    Path("docs/a.txt").write_text("Xq7 Zw9 Kj3 Vb8 " * 3)
    options = ("ngrams", "--context", "64", "--documents", "docs", "--span", "4")
    result = bmojo("eval", prose, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/ngrams.json").read_text())
    counts = {(row["kind"], row["start"]): row["count"] for row in found["rows"]}
    assert counts["new", None] == 18  # a period, and each end of the document
    assert counts["repeated", 16] == 28
    assert Path("run/evaluation/ngrams.png").exists()


def test_recall(bmojo, here):
    result = bmojo("eval", here, *RECALL, "recall")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/recall.json").read_text())
    assert [row["group"] for row in found["groups"]] == [2, 4, None]
    counted = sum(row["count"] for row in found["distances"])
    assert counted == found["groups"][-1]["count"] > 0
    assert Path("run/evaluation/recall.png").exists()


def test_results_that_cannot_be_kept_are_shown(bmojo, here):
    """As of a run that may only be read."""
    Path("run/evaluation").write_text("")
    result = bmojo("eval", here, *RECALL, "recall")
    assert "accuracy by tokens from the pair" in result.stdout
    assert result.stderr == (
        "error: run/evaluation: cannot be written (File exists); the results are shown, but not "
        "kept\n"
    )
    assert result.exit_code == 4


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["perplexity"], "documents: the run's data are no documents"),
        (["ngrams"], "ngrams: run was not trained on text"),
        (["length", "--documents", "empty"], "empty: no documents are here"),
        (["length", "--documents", "text"], "text: a.txt: the run has no tokenizer"),
        (["length", "--documents", "bad.npy"], "bad.npy: holds float64 of shape (2,)"),
        (["harness"], "--tasks: the harness needs tasks"),
        (["harness", "--tasks", "empty"], "run: it was trained on a task without text"),
        (["harness", "--tasks", "empty", "--metadata", "{"], "--metadata: '{' is no JSON object"),
        (["Experiment.evaluations=()", "recall"], "run: its config has no evaluations"),
    ],
)
def test_errors_are_one_line(bmojo, here, options, error):
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/a.txt").write_text("x")
    np.save("bad.npy", np.zeros(2))
    result = bmojo("eval", here, *options)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {error}")
    assert result.stderr.count("\n") == 1


def test_an_option_belongs_to_the_kinds_before_it(bmojo, here, monkeypatch):
    """Kinds with equal options share one pass over the documents, others have their own."""
    from bmojo.evaluation import perplexity

    passes = []
    measure = perplexity.measure
    monkeypatch.setattr(
        perplexity,
        "measure",
        lambda model, texts, longest, **more: (
            passes.append(longest) or measure(model, texts, longest, **more)
        ),
    )
    Path("docs").mkdir()
    np.save("docs/a.npy", np.arange(40))
    documents = ("--documents", "docs")
    kinds = ("perplexity", "length", *documents, "--context", "16")
    assert bmojo("eval", here, *kinds, *RECALL).exit_code == 2
    result = bmojo("eval", here, *RECALL, *kinds, "recall")
    assert result.exit_code == 0, result.output
    assert passes == [16]
    for name in ("perplexity", "length"):
        found = json.loads(Path(f"run/evaluation/{name}.json").read_text())
        assert found["longest_context"] == 16
    assert Path("run/evaluation/recall.json").exists()
    apart = ("perplexity", *documents, "--context", "8", "length", *documents, "--context", "32")
    assert bmojo("eval", here, *apart).exit_code == 0
    assert passes == [16, 8, 32]


def test_every_kind_has_its_own_help(bmojo):
    listing = bmojo("eval", "--help").stdout
    options = {
        "perplexity": "--memory-nearest", "length": "--documents", "ngrams": "--span",
        "recall": "--help", "harness": "--tasks", "needles": "--streams", "drift": "--streams",
        "rereading": "--documents", "regret": "--sequences", "readout": "--times",
    }  # fmt: skip
    for kind, option in options.items():
        assert f"\n  {kind} " in listing
        result = bmojo("eval", "nowhere", kind, "--help")
        assert result.exit_code == 0 and option in result.stdout
        assert ("--span" in result.stdout) == (kind == "ngrams")
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(options)


def test_nothing_is_measured_before_all_options_are_right(bmojo, here):
    result = bmojo("eval", here, *RECALL, "recall", "needles")
    assert result.exit_code == 2 and not Path("run/evaluation").exists()
    assert result.stdout == "" and "was not trained on NoisyMQAR" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["perplexty"], "'perplexty' is no kind of evaluation; did you mean 'perplexity'?"),
        (["recall", "lenth"], "'lenth' is no kind of evaluation; did you mean 'length'?"),
        (["recall", "Evaluation.batches=2"], "Evaluation.batches=2: overrides of the config go"),
        (["--eval", "recall"], "--eval: bmojo eval RUN has no such option; name kinds after the"),
        (["--span", "2", "ngrams"], "--span: bmojo eval RUN has no such option; it belongs to ng"),
        (["recall", "--span", "2"], "--span: recall has no such option; it belongs to ngrams"),
        (["needles", "length", "--documents", "d"], "--documents: needles has no such option"),
        (["recall", "--sapn", "2"], "--sapn: recall has no such option; see --help"),
        (["recall", "recall"], "recall: named twice"),
    ],
)
def test_words_out_of_place(bmojo, here, arguments, error):
    Path("d").mkdir()
    result = bmojo("eval", here, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {error}"), result.stderr
    assert result.stderr.count("\n") == 1


def test_a_run_is_measured_and_drawn(tmp_path, monkeypatch, bmojo):
    words = ["Trainer.compilation_cache=False", "Model.readout=@Readout()", "Readout.ring=16"]
    experiment, text = load("experiments/mqar.gin", words, OVERLAYS)
    model = jax.jit(lambda: experiment.model.make(nnx.Rngs(0)))()
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.gin").write_text(text)
    monkeypatch.setattr("bmojo.runs.restore_parameters", lambda *_: (7, split(model)[1], {}))
    monkeypatch.setattr("bmojo.runs.run_tokenizer", lambda experiment: Bytes())
    Path("docs").mkdir()
    Path("docs/a.txt").write_text("to be or not to be " * 20)
    result = bmojo("eval", "run", "readout", "--documents", "docs", "--tokens", "100")
    assert result.exit_code == 0, result.output
    assert "with matches" in result.stdout and "reading 2" in result.stdout
    assert Path("run/evaluation/readout.png").stat().st_size > 0


def test_a_model_without_is_refused(prose, bmojo):
    result = bmojo("eval", prose, "readout")
    assert result.exit_code == 2 and "has no verbatim read-out" in result.output
