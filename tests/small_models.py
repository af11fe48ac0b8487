"""Every model of configs/models/ with the dimensions of a toy."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from bmojo.experiment import load

CONFIGS = Path(__file__).parent.parent / "configs"
MODELS = sorted(path.stem for path in CONFIGS.glob("models/*.gin"))
VOCAB_SIZE = 24
SMALL = {"window": 4, "num_fading": 2, "num_eidetic": 2, "d_state": 4, "order": 2}


def shrunk(mixer):
    """A mixer config with small sizes, where it has any of them."""
    sizes = {
        name: size
        for name, size in SMALL.items()
        if getattr(mixer, name, None) and size < getattr(mixer, name)
    }
    if getattr(mixer, "fading", None) is not None:
        sizes["fading"] = shrunk(mixer.fading)
    return dataclasses.replace(mixer, **sizes)


@functools.cache
def config(name):
    experiment, _ = load("experiments/mqar.gin", overlays=[f"models/{name}.gin", "runs/smoke.gin"])
    model = experiment.model
    return dataclasses.replace(
        model,
        vocab_size=VOCAB_SIZE,
        d_model=8,
        pattern=tuple(shrunk(mixer) for mixer in model.pattern),
    )


@functools.cache
def model(name):
    """The model, drawn from seed 0; parameters are spread out so that no two logits are close."""
    structure, parameters = nnx.split(jax.jit(lambda: config(name).make(nnx.Rngs(0)))())
    parameters = jax.tree.map(lambda x: x * 1.5 if x.ndim > 1 else x, parameters)
    return nnx.merge(structure, parameters)


@functools.partial(jax.jit, static_argnums=0)
def _parallel(graph, parameters, tokens):
    return nnx.merge(graph, parameters)(tokens)[0]


def logits(made, tokens):
    """The parallel forward pass of rows of equal length."""
    graph, parameters = nnx.split(made)
    return _parallel(graph, parameters, jnp.asarray(tokens))
