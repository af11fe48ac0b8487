"""Temporary memory of a gradient as the sequence grows, by XLA's own analysis.

    python scripts/temporary_memory.py [--models bmojo mamba ...] [--lengths 1024 2048 4096]

Compiles value and gradient of the mean cross-entropy of a model of two layers, width 64,
batch 1, and prints what XLA reserves beside arguments and results. Nothing is run.
"""

import argparse
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from bmojo.experiment import load
from bmojo.model import ModelConfig

MODELS = (
    "bmojo",
    "bmojo_f",
    "bmojo_f_sliding",
    "mamba",
    "mamba2",
    "canonical",
    "hybrid",
    "swa",
    "transformer",
)


def temporary_bytes(config: ModelConfig, length: int) -> int:
    """Bytes of temporaries of the gradient for one row of ``length`` tokens."""
    abstract = nnx.eval_shape(lambda: config.make(nnx.Rngs(0)))
    graph, parameters = nnx.split(abstract)

    def loss(parameters: nnx.State, tokens: jax.Array) -> jax.Array:
        logits, _ = nnx.merge(graph, parameters)(tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()

    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(parameters, tokens).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def model_config(name: str) -> ModelConfig:
    """The tiny model of that name."""
    overlays = [f"models/{name}.gin", "sizes/tiny.gin", "runs/base.gin"]  # the base's WINDOW
    return load("experiments/mqar.gin", [], overlays)[0].model


def main(models: Iterable[str], lengths: list[int]) -> None:
    """Print the table."""
    table = Table(title="Temporaries of the gradient, MiB")
    for heading in ("model", *(f"L = {length}" for length in lengths), "last / first"):
        table.add_column(heading, justify="right")
    for name in models:
        config = model_config(name)
        sizes = [temporary_bytes(config, length) / 2**20 for length in lengths]
        table.add_row(name, *(f"{size:.1f}" for size in sizes), f"{sizes[-1] / sizes[0]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 2048, 4096])
    arguments = parser.parse_args()
    main(arguments.models, arguments.lengths)
