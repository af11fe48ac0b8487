"""A tiny model over a sequence: cut over devices, in segments, or in one piece."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from bmojo.experiment import load
from bmojo.layers.protocol import SequenceShard

AXIS = "sequence"


def tiny(name: str) -> Any:
    """The model of that name, tiny and with a small vocabulary."""
    overlays = [f"models/{name}.gin", "sizes/tiny.gin", "runs/base.gin"]  # the base's WINDOW
    config = load("experiments/mqar.gin", [], overlays)[0].model
    return dataclasses.replace(config, vocab_size=64)


def spread(devices: int, graph: Any) -> Any:
    """The model over that many devices; 0: in one piece."""
    if not devices:
        return lambda parameters, tokens, ids: nnx.merge(graph, parameters)(tokens, None, ids)

    def part(parameters: Any, tokens: jax.Array, ids: jax.Array) -> Any:
        return nnx.merge(graph, parameters)(tokens, SequenceShard(AXIS, devices), ids)

    whole, cut = PartitionSpec(), PartitionSpec(None, AXIS)
    return jax.shard_map(
        part,
        mesh=jax.sharding.Mesh(np.array(jax.devices()[:devices]), (AXIS,)),
        in_specs=(whole, cut, cut),
        out_specs=(cut, whole),
        check_vma=False,
    )


def in_segments(graph: Any, parameters: Any, tokens: Any, ids: Any, size: int) -> Any:
    """Logits and final state, one segment after the other."""
    step = jax.jit(lambda p, t, state, ids: nnx.merge(graph, p)(t, state, ids))
    state = nnx.merge(graph, parameters).init_state(tokens.shape[0], tokens.shape[1])
    outs = []
    for low in range(0, tokens.shape[1], size):
        part = slice(low, low + size)
        logits, state = step(parameters, tokens[:, part], state, ids[:, part])
        outs.append(np.asarray(logits))
    return np.concatenate(outs, axis=1), state


def differences(got: Any, want: Any) -> tuple[float, float]:
    """The largest difference of any two numbers, and of any leaf relative to its norm."""
    absolute, relative = 0.0, 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not a.size:
            continue
        absolute = max(absolute, float(np.abs(a - b).max()))
        norm = float(np.linalg.norm(b))
        relative = max(relative, float(np.linalg.norm(a - b)) / (norm if norm else 1.0))
    return absolute, relative


def draw(length: int, vocab_size: int) -> tuple[Any, Any]:
    """Random tokens in documents of random lengths, the last one half of the row or more."""
    rng = np.random.default_rng(0)
    edges = rng.integers(1, length // 2, 12)
    ids = np.searchsorted(np.sort(edges), np.arange(length), side="right")
    tokens = rng.integers(0, vocab_size, (1, length))
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(ids[None], jnp.int32)
