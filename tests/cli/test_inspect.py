"""`bmojo inspect RUN --memory FILE`."""

from pathlib import Path

import jax
import pytest
from flax import nnx

from bmojo.experiment import load
from bmojo.training.parameters import split

IDS = "1 2 3 4 5 6 7 8 9 10 11 12"


@pytest.fixture
def remembering(here, monkeypatch):
    """A run of B'MOJO."""
    experiment, text = load(
        "experiments/mqar.gin", ["Trainer.compilation_cache=False"], ["runs/smoke.gin"]
    )
    model = jax.jit(lambda: experiment.model.make(nnx.Rngs(0)))()
    Path("run/config.gin").write_text(text)
    monkeypatch.setattr("bmojo.runs.restore_parameters", lambda *_: (7, split(model)[1], {}))
    return here


def test_memory_report(bmojo, remembering):
    Path("ids.txt").write_text(IDS)
    result = bmojo("inspect", remembering, "--memory", "ids.txt", "--length", "10")
    assert result.exit_code == 0, result.output
    assert result.stdout == "run/memory/ids.txt/index.html\n"
    page = Path(result.stdout.strip()).read_text()
    assert "step 7, 10 tokens" in page


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["run", "--memory", "absent.txt"], "absent.txt: cannot be read"),
        (["run", "--memory", "ids.txt"], "nothing to show: no layer of the model attends"),
        (["run/config.gin", "--memory", "ids.txt"], "run/config.gin: --memory needs the directory"),
        (["empty", "--memory", "ids.txt"], "empty: no run is here"),
        (["run", "--memory", "ids.txt", "--length", "1", "--length", "2"], "--length: --memory"),
    ],
)
def test_errors_are_one_line(bmojo, here, arguments, error):
    Path("empty").mkdir()
    Path("ids.txt").write_text(IDS)
    result = bmojo("inspect", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {error}")
    assert result.stderr.count("\n") == 1


def test_a_run_without_a_checkpoint(bmojo, tmp_path, monkeypatch, untrained):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.gin").write_text(untrained[0])
    Path("ids.txt").write_text(IDS)
    result = bmojo("inspect", "run", "--memory", "ids.txt")
    assert result.exit_code == 2, result.output
    assert "there are no checkpoints; train first" in result.stderr
