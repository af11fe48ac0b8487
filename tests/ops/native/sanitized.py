"""Runs every kernel forward and backward, at sizes around those of its blocks.

``python -m tests.ops.native.sanitized float32``, under the address sanitizer by
``test_sanitizer.py``: arrays that a thread cuts from its memory are fenced there too.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.attention_native import causal_attention, memory_attention
from bmojo.ops.masks import Slots
from bmojo.ops.native import library
from bmojo.ops.native.scan import scan, ssd
from bmojo.ops.readout import Entries, Lookup, Query, Stretch, copy_distribution, log_share

RNG = np.random.default_rng(0)


def draw(*shape, low=-1.0):
    return jnp.asarray(RNG.uniform(low, 1, shape), DTYPE)


def run(function, *operands):
    """Outputs and gradients must be numbers."""

    def loss(*operands):
        outs = jax.tree.leaves(function(*operands))
        return sum(jnp.sum(jnp.sin(x)) for x in outs), outs

    grads, outs = jax.jit(jax.grad(loss, range(len(operands)), has_aux=True))(*operands)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((grads, outs)))


def attention(length, group, groups, width, window, slots, offset):
    heads, chunks = group * groups, -(-length // window) + (offset is not None)
    segment_pos = jnp.arange(2 * length).reshape(2, length) % (window + 3)
    q, k, v = draw(2, length, heads, width), *draw(2, 2, length, groups, width)
    tails = draw(2, 2, window - 1, groups, width)
    held = draw(2, 2, chunks, slots, groups, width)
    distance = jnp.asarray(RNG.integers(1, 3 * window, (2, chunks, 1, slots)), jnp.int32)
    rest = {"window": window, "offset": None if offset is None else jnp.asarray(offset)}

    def memory(q, k, v, tail_k, tail_v, slot_k, slot_v):
        kept = Slots(slot_k, slot_v, distance)
        return memory_attention(q, k, v, tail_k, tail_v, segment_pos, slots=kept, **rest)

    run(memory, q, k, v, *tails, *held)
    run(lambda q, k, v: causal_attention(q, k, v, segment_pos), q, k, v)


def recurrences(length, channels, states, chunk):
    start = jnp.asarray(RNG.random((2, length)) < 0.2)
    dt, A = draw(2, length, channels, low=0), -draw(channels, states, low=0)
    B, C = draw(2, 2, length, states)
    run(
        lambda *x: scan(*x, start, chunk),
        draw(2, length, channels), dt, A, B, C, draw(2, channels, states),
    )  # fmt: skip
    heads = min(3, channels)
    x, state = draw(2, length, heads, channels), draw(2, heads, channels, states)
    run(lambda *x: ssd(*x, start, chunk), x, dt[:, :, :heads], A[:heads, 0], B, C, state)


def read_out(length, entries, orders):
    place = jnp.asarray(RNG.integers(0, entries + 1, (2, length)), jnp.int32)
    reach = jnp.asarray(RNG.integers(0, entries + 1, (2, length)), jnp.int32)
    answers = jnp.asarray(RNG.integers(0, 7, (2, entries)), jnp.int32)
    hashes, own = (
        jnp.asarray(RNG.integers(2, 4, shape), jnp.uint32)
        for shape in ((2, orders, entries), (2, length, orders))
    )

    def lookup(q, k, bias):
        query = Query(q, jnp.ones(q.shape[:2], q.dtype), own, (Stretch(place, reach),))
        return Lookup(query, bias, (Entries(k, answers, hashes),), spans=((entries, 1, 1),))

    def share(*operands):
        found = log_share(lookup(*operands), answers[:, :1] * jnp.ones_like(place), "native")
        return [jnp.where(x > -jnp.inf, x, 0) for x in found]

    operands = draw(2, length, 5), draw(2, entries, 5), draw(orders)
    run(share, *operands)
    jax.block_until_ready(copy_distribution(lookup(*operands), 7, "native"))


if __name__ == "__main__":
    DTYPE = sys.argv[1]
    jax.config.update("jax_enable_x64", DTYPE == "float64")
    assert library.why_not() is None, library.why_not()
    for group in (1, 63, 64, 65, 71, 128, 256):
        attention(20, group, 2, 4, 8, 3, (0, 5))
    for length, window, slots, offset in [
        (1, 8, 3, None), (65, 64, 65, (63, 1)), (130, 1, 0, None), (600, 16, 5, (3, 0)),
    ]:  # fmt: skip
        for width in (1, 8, 17):
            attention(length, 3, 2, width, window, slots, offset)
    for sizes in itertools.product((2, 33), (1, 15, 16, 17, 33), (1, 16, 17), (1, 16)):
        recurrences(*sizes)
    for sizes in itertools.product((1, 33, 65), (1, 16, 17, 100), (0, 3)):
        read_out(*sizes)
    for size in (1, 17, 1000):
        jax.block_until_ready(library.copy(draw(size)))
    print("clean")
