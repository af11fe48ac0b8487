"""Whether a sequence cut over several devices gives what one device gives.

    python -m scripts.clusters.sequence [--model bmojo] [--devices 8] [--length 65536]

Devices are threads of the CPU. Packed documents of random tokens go through a tiny model three
ways: cut over the devices (``SequenceShard``), in segments on one device, and, at ``--short``
tokens, in one piece. Prints the largest differences of logits and of the final state, and at the
shorter length also those of the loss's gradients.
"""

import argparse
import functools
import time
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from scripts.clusters.sequence_forms import differences, draw, in_segments, spread, tiny


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
