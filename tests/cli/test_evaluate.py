"""What `bmojo eval --eval KIND` shows and leaves behind."""

import json
from pathlib import Path

import numpy as np
import pytest

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
    kinds = ("--eval", "perplexity", "--eval", "length")
    lengths = ("--context", "32", "--length", "512")
    result = bmojo("eval", here, *kinds, *lengths, "--documents", "docs")
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
    options = ("--eval", "perplexity", "--context", "4", "--documents", "docs")
    result = bmojo("eval", prose, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/perplexity.json").read_text())
    (row,) = found["contexts"]
    assert found["documents"] == 3
    assert row["bits_per_byte"] == pytest.approx(row["loss"] / np.log(2), rel=0.2)


def test_returns(bmojo, prose, monkeypatch):
    """A line that the training text has not, three times: new at first, then 16 bytes ago."""
    training = [np.frombuffer(b"ordinary prose, and nothing else", np.uint8)]
    monkeypatch.setattr("bmojo.cli.evaluate.training_documents", lambda *_: training)
    Path("docs").mkdir()
    Path("docs/a.txt").write_text("Xq7 Zw9 Kj3 Vb8 " * 3)
    options = ("--eval", "returns", "--context", "64", "--documents", "docs", "--span", "4")
    result = bmojo("eval", prose, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/returns.json").read_text())
    counts = {(row["kind"], row["start"]): row["count"] for row in found["rows"]}
    assert counts["new", None] == 18  # a period, and each end of the document
    assert counts["returns", 16] == 28
    assert Path("run/evaluation/returns.png").exists()


def test_recall(bmojo, here):
    result = bmojo("eval", here, "--eval", "recall", *RECALL)
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/evaluation/recall.json").read_text())
    assert [row["group"] for row in found["groups"]] == [2, 4, None]
    counted = sum(row["count"] for row in found["distances"])
    assert counted == found["groups"][-1]["count"] > 0
    assert Path("run/evaluation/recall.png").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--eval", "perplexity"], "documents: the run's data are no documents"),
        (["--eval", "returns"], "--eval returns: run was not trained on text"),
        (["--eval", "length", "--documents", "empty"], "empty: no documents are here"),
        (["--eval", "length", "--documents", "text"], "text: a.txt: the run has no tokenizer"),
        (["--eval", "length", "--documents", "bad.npy"], "bad.npy: holds float64 of shape (2,)"),
        (["--eval", "harness"], "--tasks: the harness needs tasks"),
        (["--eval", "harness", "--tasks", "empty"], "run: it was trained on a task without text"),
        (["--eval", "recall", "Experiment.evaluations=()"], "run: its config has no evaluations"),
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


def test_unknown_kind(bmojo, here):
    result = bmojo("eval", here, "--eval", "perplexty")
    assert result.exit_code == 2
    assert (
        "'perplexity', 'length', 'recall', 'returns', 'harness', 'needles', 'drift', 'rereading', "
        "'regret'" in result.stderr.replace("│", "")
    )
