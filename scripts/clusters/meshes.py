"""Train every model of the family on several meshes and compare with no mesh.

    python -m scripts.clusters.meshes [--models bmojo mamba ...] [--steps 20] [--out FILE.json]

Prints, for each model and mesh of eight forced host devices, the largest difference of the
loss over the steps, and the bytes that one device holds: parameters, optimizer state, and
XLA's temporary memory of a step, in which the activations are. What is there in FILE.json is not
run again.
"""

import argparse
import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import Batches
from bmojo.errors import UserError
from bmojo.experiment import load
from bmojo.model import ModelConfig
from bmojo.training.config import OptimizerConfig
from bmojo.training.mesh import Layout, MeshConfig, make_layout
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import initialize, outline
from bmojo.training.placed import Placed, shardings_of
from bmojo.training.train_step import device_fields, make_train_step
from scripts.records import markdown

MODELS = (
    "bmojo",
    "bmojo_f",
    "bmojo_f_sliding",
    "canonical",
    "hybrid",
    "mamba",
    "mamba2",
    "swa",
    "transformer",
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


def train(config: ModelConfig, mesh: MeshConfig | None, steps: int, accumulate: int = 1) -> Result:
    """Some steps of training."""
    layout = make_layout(mesh)
    if layout is None:
        return _train(config, None, steps, accumulate)
    with layout.active():
        return _train(config, layout, steps, accumulate)


def _train(config: ModelConfig, layout: Layout | None, steps: int, accumulate: int) -> Result:
    def make() -> Any:
        return config.make(nnx.Rngs(0))

    structure, shapes = outline(make)
    placed = Placed(layout, make, shapes)
    optimizer = make_optimizer(RATE, steps, structure.names)
    states = placed.optimizer(jax.eval_shape(optimizer.init, shapes))
    places = shardings_of(states) if layout else None
    parameters = placed.settle(initialize(make, placed.shardings))
    state = placed.settle(jax.jit(optimizer.init, out_shardings=places)(parameters))
    held = [sum(map(_bytes, jax.tree.leaves(tree))) for tree in (parameters, state)]

    program, losses, seconds = None, [], 0.0
    step = make_train_step(structure, optimizer, layout, placed.shardings, accumulate)
    batches = Batches(TASK.source(0, "train"), ROWS)
    for _ in range(steps):
        fields: Any = device_fields(next(batches))
        if layout is not None:
            fields = layout.put(fields, ROWS)
        if program is None:
            began = time.monotonic()
            program = step.lower(parameters, state, None, fields).compile()
            seconds = time.monotonic() - began
        parameters, state, _, metrics = program(parameters, state, None, fields)
        losses.append(float(metrics["loss"]))
    assert program is not None
    temporary = program.memory_analysis().temp_size_in_bytes
    assert math.isfinite(float(optax.tree.norm(parameters)))
    return Result(losses, *held, temporary, seconds)


def poisoned_step(config: ModelConfig, skip: bool) -> dict[str, np.ndarray]:
    """Parameters after a step whose loss is not a number, as the embedding holds none."""

    def make() -> Any:
        return config.make(nnx.Rngs(0))

    structure, _ = outline(make)
    parameters = initialize(make)
    parameters["embedding.embedding"] *= math.nan
    optimizer = make_optimizer(RATE, 1, structure.names)
    step = make_train_step(structure, optimizer, skip=skip)
    fields = device_fields(next(Batches(TASK.source(0, "train"), ROWS)))
    state = jax.jit(optimizer.init)(parameters)
    after, _, _, metrics = step(parameters, state, None, fields)
    assert math.isnan(float(metrics["loss"]))
    return {name: np.asarray(value) for name, value in after.items()}


def _bytes(array: jax.Array) -> int:
    """Of an array, on the first device."""
    shape = array.sharding.shard_shape(array.shape)
    return math.prod(shape) * array.dtype.itemsize


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # Eight devices need as many threads at once, or they wait for one another for ever.
    os.environ.setdefault("NPROC", "32")
    jax.config.update("jax_num_cpu_devices", 8)

    known = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    rows = []
    for name in args.models:
        config = model_of(name)
        for mesh in (None, *MESHES):
            key = f"{name} {'x'.join(map(str, mesh)) if mesh else 'none'}"
            if key not in known:
                result = train(config, MeshConfig(*mesh) if mesh else None, args.steps)
                known[key] = dataclasses.asdict(result)
                if args.out:
                    args.out.write_text(json.dumps(known) + "\n")
            found, alone = known[key], known[f"{name} none"]
            apart = np.abs(np.subtract(found["losses"], alone["losses"])).max()
            where = "x".join(map(str, mesh)) if mesh else "no mesh"
            sizes = [f"{found[k]:,}" for k in ("parameters", "optimizer", "temporary")]
            rows.append([name, where, f"{apart:.1e}", f"{found['losses'][-1]:.3f}", *sizes])
            print(*rows[-1], f"compiled in {found['compile_seconds']:.0f} s", flush=True)
    head = ["model", "data x fsdp x tensor x sequence", "largest difference", "last loss"]
    print("\n" + markdown([*head, "parameters", "optimizer", "temporary"], rows))


if __name__ == "__main__":
    main()
