"""A model that compiles at once, and tasks that stop a run where a test wants it.

As a script it trains in the directory given, and, given a number too, kills itself with
SIGKILL when it is about to read that example::

    python -m tests.training.standin RUN_DIR [EXAMPLE]
"""

import dataclasses
import os
import signal
import sys

import jax.numpy as jnp
from flax import nnx
from rich.console import Console

from bmojo.data.mqar import MQARConfig
from bmojo.data.synthetic import SyntheticSource
from bmojo.model import Model
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment
from bmojo.training.train import RunResult, train

VOCAB_SIZE = 32
CONFIG_TEXT = "Model.width = 8\nTrainer.seed = 0\n"
STEPS = 13


class StandIn(nnx.Module):
    """Every token sees the mean of those before it."""

    groups = {"in_proj": "ssm", "q_proj": "attention"}
    undecayed = ("embedding.embedding", "norm.scale")

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(VOCAB_SIZE, width, rngs=rngs)
        self.in_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.q_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, tokens, state=None, segment_ids=None, lengths=None):
        features, state = self.features(tokens, state, segment_ids, lengths)
        return self.logits(features), state

    def features(self, tokens, state=None, segment_ids=None, lengths=None):
        if state is None:
            state = self.init_state(tokens.shape[0])
        x = self.embedding(tokens)
        sums = state["sum"][:, None] + jnp.cumsum(x, axis=1)
        seen = state["seen"][:, None] + 1 + jnp.arange(x.shape[1])
        mean = sums / seen[..., None]
        after = {"sum": sums[:, -1], "seen": seen[:, -1], "empty": state["empty"]}
        x = self.norm(x + self.in_proj(mean) * jnp.tanh(self.q_proj(x)))
        return x, after

    def logit_factors(self, features):
        return features, self.embedding.embedding[...]

    def _forward(self, *inputs):
        features, state = self.features(*inputs)
        return features, None, state

    score = Model.score

    def logits(self, features):
        return features @ self.embedding.embedding[...].T

    def init_state(self, batch_size, capacity=None):
        zeros = jnp.zeros((batch_size, self.embedding.features))
        seen = jnp.zeros((batch_size,), jnp.int32)
        return {"sum": zeros, "seen": seen, "empty": zeros[:, :0]}


@dataclasses.dataclass(frozen=True)
class StandInConfig:
    width: int = 8
    vocab_size: int = VOCAB_SIZE

    def make(self, rngs):
        return StandIn(self.width, rngs)


class SignallingSource(SyntheticSource):
    """Sends this process a signal when one example of the training split is read."""

    def __init__(self, config, seed, split, at, number):
        super().__init__(config, seed, split)
        self.at, self.number = at, number

    def __getitem__(self, index):
        if index == self.at and self.split == "train":
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True)
class SignallingMQAR(MQARConfig):
    at: int = -1
    number: int = signal.SIGKILL

    def source(self, seed, split):
        return SignallingSource(self, seed, split, self.at, self.number)


def task(length, pairs, at=-1, number=signal.SIGKILL):
    return SignallingMQAR(length, pairs, VOCAB_SIZE, at=at, number=number)


def run(run_dir, at=-1, number=signal.SIGKILL, **changes) -> RunResult:
    """13 steps in two stages: 8 of 4 examples, then 5 of 2. Example 30 is in the 8th batch."""
    parts = {
        "model": StandInConfig(),
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "trainer": TrainerConfig(
            log_every=2,
            eval_every=3,
            checkpoint_every=4,
            tensorboard=False,
            plots=False,
        ),
        "curriculum": (
            Stage(task(16, (2, 3), at, number), 8, 4),
            Stage(task(24, (3,), at, number), 5, 2),
        ),
        "evaluations": (Evaluation("recall", task(16, (1, 2)), 2, 8),),
    }
    experiment = Experiment(**{name: changes.pop(name, part) for name, part in parts.items()})
    options = {
        "config_text": CONFIG_TEXT,
        "console": Console(file=open(os.devnull, "w"), width=200),  # noqa: SIM115
    }
    return train(experiment, run_dir, **(options | changes))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], *map(int, sys.argv[2:])).exit_code)
