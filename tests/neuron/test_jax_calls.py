"""Kernels called from JAX against the library's functions, and their gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import attention_xla, convolution, masks, recurrence, selection
from bmojo.ops import innovation as innovations
from neuron import jax_calls
from neuron.checks.attention import Size, problem
from tests.numerics import relative_rms

B, L, E, N = 2, 11, 6, 3
AGE = jnp.array([[*range(4), *range(7)], [*range(9, 20)]], jnp.int32)
START = AGE == 0


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32))


def on_device(p):
    arrays = {name: jnp.asarray(x) for name, x in p.arrays.items()}
    segment_pos, far = jnp.asarray(p.segment_pos), jnp.asarray(p.distance)
    return dataclasses.replace(p, arrays=arrays, segment_pos=segment_pos, distance=far)


def agree(call, reference, arguments, limit=1e-5, gradient=1e-4):
    """Results, and gradients by every argument, of two functions."""

    def run(function):
        def loss(*arguments):
            out = function(*arguments)
            return sum(jnp.sin(3 * x).sum() for x in jax.tree.leaves(out)), out

        both = jax.value_and_grad(loss, tuple(range(len(arguments))), has_aux=True)
        (_, out), grads = jax.jit(both)(*arguments)
        return jax.tree.leaves(out), grads

    (found, gradients), (wanted, given) = run(call), run(reference)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype and relative_rms(a, b) <= limit
    for n, (a, b) in enumerate(zip(gradients, given, strict=True)):
        assert a.dtype == b.dtype and relative_rms(a, b) <= gradient, n


@pytest.mark.parametrize(
    ("taps", "segment_pos"),
    [
        (1, None),
        (4, AGE),
        pytest.param(1, AGE, marks=pytest.mark.slow),
        pytest.param(4, None, marks=pytest.mark.slow),
    ],
    ids=["1 tap", "4 taps, documents", "1 tap, documents", "4 taps"],
)
def test_short_convolution(taps, segment_pos):
    def reference(x, kernel, bias, tail):
        return jax.nn.silu(convolution.causal_convolution(x, kernel, tail, segment_pos) + bias)

    arguments = draw(B, L, E), draw(taps, E), draw(E), draw(B, taps - 1, E)
    agree(lambda *a: jax_calls.short_convolution(*a, segment_pos), reference, arguments)


@pytest.mark.parametrize(
    "start", [pytest.param(None, marks=pytest.mark.slow), START], ids=["", "documents"]
)
def test_selective_scan(start):
    dt, A = jnp.exp(draw(B, L, E, seed=1) - 2), -jnp.exp(draw(E, N))
    b, c = draw(B, L, N, seed=2), draw(B, L, N, seed=3)
    arguments = draw(B, L, E), dt, A, b, c, draw(B, E, N)
    agree(
        lambda *a: jax_calls.selective_scan(*a, start),
        lambda *a: recurrence.selective_scan(*a, start),
        arguments,
    )


@pytest.mark.parametrize("segment_pos", [None, AGE], ids=["", "documents"])
def test_innovation(segment_pos):
    y, tail = draw(B, L, E), draw(B, 5, E)

    def both(y):
        residuals = innovations.residual(y, tail, innovations.predictor(3), segment_pos)
        wanted = innovations.innovation(residuals)[0]
        return jax_calls.innovation(y, tail, 3, segment_pos)[0], wanted

    found, wanted = jax.jit(both)(y)
    assert relative_rms(found, wanted) <= 1e-5
    assert not np.any(jax.grad(lambda y: both(y)[0].sum())(y))


@pytest.mark.parametrize("lengths", [None, jnp.array([7, 0])], ids=["", "padding"])
def test_normalized_innovation(lengths):
    y, tail, power = draw(B, L, E), draw(B, 5, E), jnp.abs(draw(B, E))

    def both(y, power):
        residuals = innovations.residual(y, tail, innovations.predictor(3), AGE)
        wanted = innovations.innovation(residuals, power, AGE, lengths)
        return jax_calls.innovation(y, tail, 3, AGE, power, lengths), wanted

    (score, after), (wanted, last) = jax.jit(both)(y, power)
    counts = [L] * B if lengths is None else lengths.tolist()
    for row, count in enumerate(counts):
        assert relative_rms(score[row, :count], wanted[row, :count]) <= 1e-5
    assert relative_rms(after, last) <= 1e-5
    with pytest.raises(ValueError, match="^normalized innovation needs the segment_pos"):
        jax_calls.innovation(y, tail, 3, power=power)


def test_running_sets():
    score = jnp.round(jnp.abs(3 * draw(B, L)))
    carried = jnp.array([[4, 2, 1], [3, 3, -1]], jnp.float32)
    valid = jnp.arange(L) < jnp.array([[11], [9]])
    found = jax.jit(lambda *a: jax_calls.running_sets(*a[:2], 4, *a[2:]))(
        score, carried, START, valid
    )
    reference = jax.jit(lambda *a: selection.running_sets(*a[:2], 4, None, *a[2:]))
    wanted, last = reference(score, carried, START, valid)
    held = np.asarray(wanted.score) != selection.EMPTY
    np.testing.assert_array_equal(found.score, wanted.score)
    np.testing.assert_array_equal(np.where(held, found.source, 0), np.where(held, wanted.source, 0))
    np.testing.assert_array_equal(found.score[:, -1], last.score)


@pytest.mark.parametrize(
    "size",
    [
        Size(2, 11, 4, 2, 4, 4, slots=3, before=3, documents=2),
        pytest.param(Size(1, 9, 2, 2, 4, 5, slots=2), marks=pytest.mark.slow),
        Size(2, 7, 2, 1, 4, 3),
        Size(1, 4, 1, 1, 4, 1, slots=2),
    ],
    ids=str,
)
def test_memory_attention(size):
    p = on_device(problem(size))
    names = [n for n in p.names if p.arrays[n].size]

    def run(function):
        def call(*tensors):
            given = dict(zip(names, tensors, strict=True))
            slots = None
            if size.slots:
                slots = masks.Slots(
                    given.pop("slot_k"), given.pop("slot_v"), p.distance[:, :, None]
                )
            if "tail_k" not in given:
                none = jnp.zeros_like(p.arrays["tail_k"]), jnp.zeros_like(p.arrays["tail_v"])
                tail = (None, None) if function is jax_calls.memory_attention else none
                given |= dict(zip(("tail_k", "tail_v"), tail, strict=True))
            return function(**given, segment_pos=p.segment_pos, window=size.window, slots=slots)

        return call

    arguments = [p.arrays[n] for n in names]
    agree(run(jax_calls.memory_attention), run(attention_xla.memory_attention), arguments)


def test_memory_attention_in_bfloat16():
    p = on_device(problem(Size(1, 9, 2, 1, 8, 4, slots=3, before=3, dtype="bfloat16")))
    slots = masks.Slots(p.arrays["slot_k"], p.arrays["slot_v"], p.distance[:, :, None])
    arguments = [p.arrays[n] for n in ("q", "k", "v", "tail_k", "tail_v")]
    options = {"segment_pos": p.segment_pos, "window": 4, "slots": slots}
    agree(
        lambda *a: jax_calls.memory_attention(*a, **options),
        lambda *a: attention_xla.memory_attention(*a, **options),
        arguments,
        limit=2**-7,
        gradient=2**-6,
    )


def test_memory_attention_step():
    window, position = 5, jnp.array([12, 3], jnp.int32)
    q, k, v = draw(2, 4, 8), draw(2, 2, 8, seed=1), draw(2, 2, 8, seed=2)
    tail = draw(2, window - 1, 2, 8, seed=3), draw(2, window - 1, 2, 8, seed=4)
    far = jnp.array([[[2, 7, masks.NEVER]], [[1, 9, 3]]], jnp.int32)
    slots = masks.Slots(draw(2, 1, 3, 2, 8, seed=5), draw(2, 1, 3, 2, 8, seed=6), far[:, :, None])
    rings = [np.full((2, window, 2, 8), 9, np.float32) for _ in tail]
    for row in range(2):
        for back in range(1, window):
            for ring, x in zip(rings, tail, strict=True):
                ring[row, (position[row] - back) % window] = x[row, window - 1 - back]
    found = jax.jit(jax_calls.memory_attention_step)(q, k, v, *rings, position, position, slots)
    reference = jax.jit(functools.partial(attention_xla.memory_attention, window=window))
    tokens = (x[:, None] for x in (q, k, v))
    wanted = reference(*tokens, *tail, position[:, None], slots=slots, offset=position % window)
    assert relative_rms(found, wanted[:, 0]) <= 1e-5


def test_rows_by_vmap():
    """A map over examples calls the kernel for one after the other."""
    y, tail = draw(3, 1, L, E), draw(3, 1, 4, E)
    found = jax.vmap(lambda *a: jax_calls.innovation(*a, 2)[0])(y, tail)
    wanted = [jax_calls.innovation(a, b, 2)[0] for a, b in zip(y, tail, strict=True)]
    np.testing.assert_array_equal(found, wanted)
