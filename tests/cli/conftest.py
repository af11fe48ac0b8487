"""A run whose checkpoint need not be trained."""

from pathlib import Path

import jax
import pytest
from flax import nnx
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.experiment import load
from bmojo.training.parameters import split
from tests.evaluation.byte_tokenizer import Bytes

OVERLAYS = ["models/mamba.gin", "runs/smoke.gin"]


@pytest.fixture(scope="session")
def untrained():
    experiment, text = load("experiments/mqar.gin", ["Trainer.compilation_cache=False"], OVERLAYS)
    return text, jax.jit(lambda: experiment.model.make(nnx.Rngs(0)))()


@pytest.fixture
def here(tmp_path, monkeypatch, untrained):
    """The directory of a run on a synthetic task."""
    monkeypatch.chdir(tmp_path)
    text, model = untrained
    Path("run").mkdir()
    Path("run/config.gin").write_text(text)
    monkeypatch.setattr("bmojo.runs.restore_parameters", lambda *_: (7, split(model)[1], {}))
    return "run"


@pytest.fixture
def prose(here, monkeypatch):
    """The same with a tokenizer."""
    monkeypatch.setattr("bmojo.runs.run_tokenizer", lambda experiment: Bytes())
    return here


@pytest.fixture
def bmojo():
    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return run
