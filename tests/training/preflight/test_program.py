"""What a preflight says of the training step of a toy."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from bmojo.data.mqar import MQARConfig
from bmojo.model import Model
from bmojo.multihost import Processes
from bmojo.ops.axes import Names
from bmojo.training.config import OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment
from bmojo.training.preflight import Step
from bmojo.training.run_dir import RunError
from bmojo.training.run_setup import RunSetup
from bmojo.training.sharding import Layout, MeshConfig

VOCAB = 64


class Toy(nnx.Module):
    """Embedding, bias, head."""

    axes: dict[str, Names] = {"table": ("vocab", "embed"), "head": ("embed", "vocab")}

    def __init__(self, rngs):
        self.table = nnx.Param(rngs.normal((VOCAB, 8)))
        self.bias = nnx.Param(jnp.zeros(8))
        self.head = nnx.Param(jnp.zeros((8, VOCAB), jnp.bfloat16))

    def _forward(self, tokens, state=None, segment_ids=None, lengths=None):
        return self.table[...][tokens] + self.bias[...], None, state

    def logit_factors(self, features):
        return features, self.head[...].T

    score = Model.score

    def logits(self, features):
        return features @ self.head[...]


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    def make(self, rngs):
        return Toy(rngs)


def step(layout, batch_size=8):
    data = MQARConfig(vocab_size=VOCAB, length=16, num_pairs=(2,))
    curriculum = (Stage(data, 5, batch_size // 2), Stage(data, 5, batch_size))
    experiment = Experiment(ToyConfig(), OptimizerConfig(), TrainerConfig(), curriculum)
    return Step(RunSetup(experiment, Processes(), layout=layout))


@pytest.fixture
def layout():
    made = Layout(MeshConfig(data=2, fsdp=2, tensor=2))
    with made.active():
        yield made


def test_parameters_and_where_they_lie(layout):
    rows = {row["name"]: row for row in step(layout).parameters()}
    assert rows["table"]["axes"] == "vocab embed"
    assert rows["table"]["sharding"] == "tensor fsdp"
    assert (rows["table"]["bytes"], rows["table"]["device_bytes"]) == (2048, 512)
    assert (rows["head"]["dtype"], rows["head"]["bytes"]) == ("bfloat16", 1024)
    assert (
        rows["bias"] | {"axes": "(no names)", "sharding": "-", "device_bytes": 32} == rows["bias"]
    )


def test_totals(layout):
    """Two moments of each parameter, and what does not depend on them."""
    rows = step(layout).totals()
    whole, held = 2048 + 32 + 1024, 512 + 32 + 256
    expected = {"bytes": whole, "device_bytes": held, "all_devices_bytes": 8 * held}
    assert rows["parameters"] == rows["gradients"] == expected
    moments = rows["optimizer state"]
    counts = moments["bytes"] - 2 * whole
    assert 0 < counts <= 32 and moments["device_bytes"] == 2 * held + counts
    assert rows["together"]["bytes"] == 4 * whole + counts


def test_one_device_holds_all():
    made = step(None)
    assert {row["sharding"] for row in made.parameters()} == {"-"}
    assert all(len(set(row.values())) == 1 for row in made.totals().values())


def test_compiling_tells_time_memory_and_operations(layout):
    made = step(layout)
    assert (made.number, made.tokens, made.model_flops()) == (2, 128, None)
    facts = made.compile()
    memory = facts["memory"]
    moments = made.totals()["optimizer state"]["device_bytes"]
    batch = 2 * 2 * 16 * 4  # inputs and targets, two rows of 16 tokens, four bytes each
    assert memory["arguments"] == 512 + 32 + 256 + moments + batch
    kinds = ("arguments", "outputs", "temporary", "program")
    assert memory["together"] == sum(memory[kind] for kind in kinds) - memory["aliased"]
    assert facts["compile_seconds"] > 0 and facts["flops"] > 0


def test_what_cannot_be_cut_is_named():
    with pytest.raises(RunError, match="Mesh.fsdp: 3 does not divide the 8 of parameter"):
        step(Layout(MeshConfig(fsdp=3), jax.devices()[:3]), 12)
