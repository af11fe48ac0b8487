"""Workers of peers: the one for JAX with a model that is made up, and that all models are known."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bmojo.benchmark.peers import PEERS
from bmojo.benchmark.workers import jax_worker, torch_worker
from bmojo.cli.bench import PEERS as NAMED

KNOWN = {"jax_worker.py": jax_worker.MODELS, "torch_worker.py": torch_worker.NAMES}
SCRIPTS = Path(__file__).parents[2] / "scripts" / "peers"
ASKED = {"model": "pairs", "vocabulary": 24, "width": 8, "parameters": 5000, "heads": 2}
ASKED |= {"batch": 2, "length": 12}


def pairs(shift):
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

        return jax_worker.Model(asked["heads"], shapes, make, "jax")

    return made


def test_the_jax_worker_makes_checks_and_trains(monkeypatch):
    monkeypatch.setitem(jax_worker.MODELS, "pairs", pairs(0))
    worker = jax_worker.Worker()
    made = worker.make(ASKED)
    assert made["parameters"] == pytest.approx(5000, rel=0.02) and made["inner"] % 2 == 0
    assert made["versions"]["jax"] == jax.__version__ and made["whose"] == "jax, JAX"
    checked = worker.check({})
    assert checked["loss"] == pytest.approx(math.log(24), rel=0.1) and checked["leak"] == 0
    losses = [worker.step({})["loss"] for _ in range(3)]
    assert losses[0] == pytest.approx(checked["loss"], rel=1e-5)
    assert losses[0] > losses[1] > losses[2]


def test_the_jax_worker_sees_the_future(monkeypatch):
    monkeypatch.setitem(jax_worker.MODELS, "pairs", pairs(-1))
    worker = jax_worker.Worker()
    worker.make(ASKED)
    assert worker.check({})["leak"] > 0.1


def test_every_peer_has_an_environment_and_a_worker_that_knows_it():
    for kind in PEERS.values():
        assert kind.model in KNOWN[kind.worker]
        assert (SCRIPTS / f"{kind.environment}.txt").is_file()
    assert NAMED.split(",") == list(PEERS)
