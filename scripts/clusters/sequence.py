"""Whether a sequence cut over several devices gives what one device gives.

    python scripts/clusters/sequence.py [--model bmojo] [--devices 8] [--length 65536]

Devices are threads of the CPU. Packed documents of random tokens go through a tiny model three
ways: cut over the devices (``SequenceShard``), in segments on one device, and, at ``--short``
tokens, in one piece. Prints the largest differences of logits and of the final state, and at the
shorter length also those of the loss's gradients.
"""

import argparse
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec
from rich.console import Console
from rich.table import Table

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


def main(name: str, devices: int, length: int, short: int, segment: int) -> None:
    """Print the table."""
    jax.config.update("jax_num_cpu_devices", devices)
    config = tiny(name)
    graph, parameters = nnx.split(jax.jit(lambda: config.make(nnx.Rngs(0)))())
    table = Table(title=f"{name}, {devices} devices")
    for heading in ("tokens", "beside", "of", "largest difference", "relative to the norm"):
        table.add_column(heading, justify="right")

    def add(tokens: int, beside: str, what: str, got: Any, want: Any) -> None:
        largest, relative = differences(got, want)
        table.add_row(f"{tokens:,}", beside, what, f"{largest:.1e}", f"{relative:.1e}")

    tokens, ids = draw(length, config.vocab_size)
    began = time.perf_counter()
    logits, state = jax.jit(spread(devices, graph))(parameters, tokens, ids)
    logits = np.asarray(logits)
    seconds = time.perf_counter() - began
    want, want_state = in_segments(graph, parameters, tokens, ids, segment)
    beside = f"{segment:,} at a time"
    add(length, beside, "logits", logits, want)
    add(length, beside, "final state", state, want_state)

    tokens, ids = draw(short, config.vocab_size)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(size: int, parameters: Any) -> Any:
        def loss(parameters: Any) -> Any:
            logits, state = spread(size, graph)(parameters, tokens, ids)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
            return losses.mean(), state

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    (loss, state), slopes = gradient(devices, parameters)
    (want_loss, want_state), want_slopes = gradient(0, parameters)
    for what, got, expected in (
        ("loss", loss, want_loss),
        ("final state", state, want_state),
        ("gradients", slopes, want_slopes),
    ):
        add(short, "one piece", what, got, expected)
    console = Console(width=100)
    console.print(table)
    console.print(f"{length:,} tokens over {devices} devices: {seconds:.1f} s with compilation")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bmojo")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--length", type=int, default=65536)
    parser.add_argument("--short", type=int, default=8192)
    parser.add_argument("--segment", type=int, default=8192)
    given = parser.parse_args()
    main(given.model, given.devices, given.length, given.short, given.segment)
