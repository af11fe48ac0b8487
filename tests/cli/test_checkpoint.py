"""`bmojo checkpoint`, on a run that was saved but not trained."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.experiment import load
from bmojo.export import tensors
from bmojo.runs import open_run
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.parameters import split
from bmojo.training.run_dir import RunError
from tests.export import llama_in_numpy

OVERLAYS = ["models/transformer.gin", "runs/smoke.gin"]
OVERRIDES = ["Trainer.best='recall/accuracy'", "Trainer.compilation_cache=False"]
METRICS = (
    {"step": 2, "loss": 3.5},
    {"step": 2, "evaluation": "recall", "group": None, "accuracy": 0.5, "loss": 2.0},
    {"step": 3, "loss": 3.25},
    {"step": 4, "evaluation": "recall", "group": None, "accuracy": 0.25, "loss": 2.5},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a transformer with checkpoints of the steps 2 and 4, and its parameters."""
    experiment, text = load("experiments/mqar.gin", OVERRIDES, OVERLAYS)
    model = jax.jit(lambda: experiment.model.make(nnx.Rngs(0)))()
    _, parameters = split(model)
    run = tmp_path_factory.mktemp("cli") / "run"
    run.mkdir()
    (run / "config.gin").write_text(text)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in METRICS))
    with Checkpoints(run / "checkpoints") as kept:
        for step in (2, 4):
            changed = {name: x + step for name, x in parameters.items()}
            kept.save(Checkpoint(step, changed, {"count": np.ones(())}, {"data": {}}))
    return run, model, parameters


def test_a_run_is_opened_at_a_step(made):
    path, _, parameters = made
    for wanted, step in ((None, 4), ("best", 2), ("4", 4), (2, 2)):
        run = open_run(path, wanted)
        assert run.step == step and run.tokenizer is None and run.path == path
        assert run.parameters.keys() == parameters.keys()
        for name, value in parameters.items():
            np.testing.assert_array_equal(run.parameters[name], np.asarray(value + step))
    half = open_run(path, overrides=["Model.tie_embeddings=True"], dtype="bfloat16")
    assert half.experiment.model.dtype == half.model.config.dtype == "bfloat16"
    with pytest.raises(RunError, match="no checkpoint of step 3; take one of 2, 4"):
        open_run(path, 3).model  # noqa: B018
    with pytest.raises(RunError, match="no run is here"):
        open_run(path / "checkpoints")


def test_ls(bmojo, made, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = bmojo("checkpoint", "ls", str(made[0]))
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines()]
    rows = {row[1]: row for row in rows if len(row) > 1}
    assert rows["2 best"][5:8] == ["whole", "3.5000", "recall accuracy 0.500"]
    assert rows["4"][5:8] == ["whole", "3.2500", "recall accuracy 0.250"]


def test_verify(bmojo, made):
    run = str(made[0])
    result = bmojo("checkpoint", "verify", run)
    assert result.exit_code == 0 and result.stdout.count("all as it was written") == 2
    path = made[0] / "checkpoints" / "4" / "shapes" / "metadata"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + b"!")
        result = bmojo("checkpoint", "verify", run)
        assert result.exit_code == 1
        assert "shapes/metadata: has changed since it was written" in result.stdout
        assert bmojo("checkpoint", "verify", run, "--step", "2").exit_code == 0
        result = bmojo("checkpoint", "export", run, "--to", str(made[0] / "damaged"))
        assert result.exit_code == 2 and not (made[0] / "damaged").exists()
        assert "is damaged: shapes/metadata" in result.output
        assert "take that of step 2" in result.output
    finally:
        path.write_bytes(content)
    result = bmojo("checkpoint", "verify", run, "--step", "3")
    assert result.exit_code == 2 and "take one of 2, 4" in result.output


def test_export(bmojo, made, tmp_path):
    run, _, parameters = made
    to = tmp_path / "out"
    result = bmojo("checkpoint", "export", str(run), "--to", str(to), "--step", "best")
    assert result.exit_code == 0, result.output
    assert "the model of step 2" in result.stdout
    assert sorted(entry.name for entry in to.iterdir()) == ["config.json", "model.safetensors"]
    found, _ = tensors.read(to / "model.safetensors")
    assert found.keys() == parameters.keys()
    for name, value in parameters.items():
        assert np.array_equal(found[name], np.asarray(value + 2))
    config = json.loads((to / "config.json").read_text())
    assert config["gin"] == (run / "config.gin").read_text() and config["step"] == 2
    result = bmojo("checkpoint", "export", str(run), "--to", str(to))
    assert result.exit_code == 2 and "is there already" in result.output


def test_export_for_transformers(bmojo, made, tmp_path):
    run, model, _ = made
    to = tmp_path / "out"
    options = ("--to", str(to), "--format", "huggingface")
    result = bmojo("checkpoint", "export", str(run), *options)
    assert result.exit_code == 0, result.output
    tokens = np.arange(0, 250, 13)
    ours = open_run(run).model(tokens[None])[0][0]
    theirs = llama_in_numpy.logits(to, tokens)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_records_that_were_changed_decide_nothing(bmojo, made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made[0], run)
    meta = run / "checkpoints" / "4" / "meta" / "metadata"
    content = (run / "metrics.jsonl").read_bytes()
    mark = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    meta.write_text(json.dumps(json.loads(meta.read_bytes()) | {"metrics": mark}))
    assert bmojo("checkpoint", "ls", str(run)).stderr == ""
    (run / "metrics.jsonl").write_bytes(content.replace(b"0.25,", b"0.75,"))
    result = bmojo("checkpoint", "export", str(run), "--to", str(tmp_path / "x"), "--step", "best")
    assert result.exit_code == 2 and not (tmp_path / "x").exists()
    assert "--step best: " in result.output and "put the file back from a copy" in result.output
    result = bmojo("checkpoint", "ls", str(run))
    assert result.exit_code == 0 and " best" not in result.stdout
    assert "warning: " in result.stderr and "are not those that were written" in result.stderr


def test_step_best_needs_a_best(bmojo, made):
    config = made[0] / "config.gin"
    text = config.read_text()
    try:
        config.write_text(text.replace("best = 'recall/accuracy'", "best = None"))
        for command in (("checkpoint", "export", "--to", "x"), ("eval",), ("generate",)):
            result = bmojo(*command, str(made[0]), "--step", "best")
            assert result.exit_code == 2
            assert "does not say what is best" in result.output
    finally:
        config.write_text(text)
    result = bmojo("eval", str(made[0]), "--step", "newest")
    assert result.exit_code == 2 and "'newest' is no step" in result.output
    assert Path("x").exists() is False
