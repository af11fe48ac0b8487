"""Workers of peers: the one for JAX with a made-up model; all models and programs are there."""

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from bmojo.benchmark.peers import PEERS
from bmojo.cli.bench import PEERS as NAMED
from scripts.peers import install

SCRIPTS = Path(install.__file__).parent
ASKED = {"model": "pairs", "vocabulary": 24, "width": 8, "parameters": 5000, "heads": 2}
ASKED |= {"batch": 2, "length": 12}


def pairs(models, shift):
    """A model that predicts a token from one ``shift`` tokens before, through a hidden layer."""

    def made(asked):
        sizes = {"embedding": (asked["vocabulary"], asked["width"])}

        def make(inner):
            shapes = {**sizes, "in": (asked["width"], inner), "out": (inner, asked["vocabulary"])}
            keys = jax.random.split(jax.random.key(0), 3)
            drawn = {
                name: 0.1 * jax.random.normal(key, shape)
                for key, (name, shape) in zip(keys, shapes.items(), strict=True)
            }

            def logits(parameters, tokens):
                x = parameters["embedding"][jnp.roll(tokens, shift, axis=1)]
                return jnp.tanh(x @ parameters["in"]) @ parameters["out"]

            return drawn, logits

        def shapes(inner):
            return jax.eval_shape(lambda: make(inner)[0])

        return models.Model(asked["heads"], shapes, make, "jax")

    return made


@pytest.fixture
def programs(monkeypatch):
    """The programs as they import each other, beside one another in a folder."""
    monkeypatch.syspath_prepend(SCRIPTS)
    names = [name.removesuffix(".py") for name in install.PROGRAMS]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


def test_the_jax_worker_makes_checks_and_trains(programs):
    programs.jax_models.MODELS["pairs"] = pairs(programs.jax_models, 0)
    worker = programs.jax_worker.Worker()
    made = worker.make(ASKED)
    assert made["parameters"] == pytest.approx(5000, rel=0.02) and made["inner"] % 2 == 0
    assert made["versions"]["jax"] == jax.__version__ and made["whose"] == "jax, JAX"
    checked = programs.serve.check(worker)
    assert checked["loss"] == pytest.approx(math.log(24), rel=0.1) and checked["leak"] == 0
    losses = [worker.step({})["loss"] for _ in range(3)]
    assert losses[0] == pytest.approx(checked["loss"], rel=1e-5)
    assert losses[0] > losses[1] > losses[2]


def test_the_jax_worker_sees_the_future(programs):
    programs.jax_models.MODELS["pairs"] = pairs(programs.jax_models, -1)
    worker = programs.jax_worker.Worker()
    worker.make(ASKED)
    assert programs.serve.check(worker)["leak"] > 0.1


def test_every_peer_has_an_environment_and_a_worker_that_knows_it(programs):
    known = {"jax_worker": programs.jax_models.MODELS, "torch_worker": programs.torch_models.NAMES}
    for kind in PEERS.values():
        assert kind.model in known[kind.worker]
        assert (SCRIPTS / f"{kind.environment}.txt").is_file()
    assert NAMED.split(",") == list(PEERS)


def test_programs_import_no_bmojo_and_each_other_only():
    for path in SCRIPTS.glob("*.py"):
        if path.name == "install.py":
            continue
        assert path.name in install.PROGRAMS
        text = path.read_text()
        assert "import bmojo" not in text and "from bmojo" not in text


def test_an_environment_has_the_programs(tmp_path, monkeypatch):
    python = tmp_path / "torch" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(install.subprocess, "run", lambda command, check: None)
    install.install("torch", tmp_path)
    assert {path.name for path in (tmp_path / "torch").glob("*.py")} == set(install.PROGRAMS)
