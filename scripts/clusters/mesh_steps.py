"""Some steps of training of small models, on a mesh or on one device."""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
import optax

from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import Batches
from bmojo.errors import UserError
from bmojo.experiment import load
from bmojo.model import ModelConfig
from bmojo.multihost import Processes
from bmojo.training.config import OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment
from bmojo.training.run_setup import RunSetup
from bmojo.training.sharding import MeshConfig
from bmojo.training.train_step import device_fields

MODELS = tuple(
    "bmojo bmojo_f bmojo_f_sliding canonical hybrid mamba mamba2 swa transformer".split()
)
MESHES = ((8, 1, 1, 1), (2, 4, 1, 1), (2, 2, 2, 1), (1, 2, 2, 2))
TASK = MQARConfig(vocab_size=64, length=64, num_pairs=(4,))
ROWS = 16
RATE = OptimizerConfig(learning_rate=3e-3, warmup=0.1)


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of some steps: losses, and bytes that one device holds."""

    losses: list[float]
    parameters: int
    optimizer: int
    temporary: int
    compile_seconds: float


def model_of(name: str) -> ModelConfig:
    """A small model of the family."""
    overrides = ["Model.d_model=32", "Model.n_layers=2", "Model.vocab_size=64", "N_HEADS=2"]
    overrides += ["WINDOW=16", "Model.parameters=None"]
    for binding in overrides.copy():
        try:
            load("experiments/mqar.gin", [binding], [f"models/{name}.gin"])
        except UserError:  # a model without heads or window does not know the binding
            overrides.remove(binding)
    return load("experiments/mqar.gin", overrides, [f"models/{name}.gin"])[0].model


def setup_of(config: ModelConfig, mesh: MeshConfig | None, steps: int, **trainer: Any) -> RunSetup:
    """The setup of some steps of training."""
    stages = (Stage(TASK, steps, ROWS),)
    experiment = Experiment(config, RATE, TrainerConfig(**trainer), stages, mesh=mesh)
    return RunSetup(experiment, Processes())


def train(config: ModelConfig, mesh: MeshConfig | None, steps: int, accumulate: int = 1) -> Result:
    """Some steps of training."""
    setup = setup_of(config, mesh, steps, accumulate=accumulate)
    program, losses, seconds = None, [], 0.0
    with setup.layout.active():
        parameters, state = setup.initialize()
        held = [sum(map(_bytes, jax.tree.leaves(tree))) for tree in (parameters, state)]
        batches = Batches(TASK.source(0, "train"), ROWS)
        for _ in range(steps):
            fields = setup.layout.put(device_fields(next(batches)), ROWS)
            if program is None:
                began = time.monotonic()
                program = setup.train_step().lower(parameters, state, None, fields).compile()
                seconds = time.monotonic() - began
            parameters, state, _, metrics = program(parameters, state, None, fields)
            losses.append(float(metrics["loss"]))
    assert program is not None and math.isfinite(float(optax.tree.norm(parameters)))
    return Result(losses, *held, program.memory_analysis().temp_size_in_bytes, seconds)


def poisoned_step(config: ModelConfig, skip: bool) -> dict[str, np.ndarray]:
    """Parameters after a step whose loss is not a number, as the embedding holds none."""
    setup = setup_of(config, None, 1, on_nonfinite="skip" if skip else "stop")
    parameters, state = setup.initialize()
    parameters["embedding.embedding"] *= math.nan
    fields = device_fields(next(Batches(TASK.source(0, "train"), ROWS)))
    after, _, _, metrics = setup.train_step()(parameters, state, None, fields)
    assert math.isnan(float(metrics["loss"]))
    return {name: np.asarray(value) for name, value in after.items()}


def _bytes(array: jax.Array) -> int:
    """Of an array, on the first device."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
