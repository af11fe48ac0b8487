"""The companion recurrence against its oracle: outputs, state, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import reference
from bmojo.ops.companion import companion_scan, expand_polynomial
from tests.numerics import assert_close

IMPLEMENTATIONS = ("associative", "sequential")
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


# Small chunks, for several of them, and for compiling fast.
small = functools.partial(companion_scan, chunk_size=8)
scan = jax.jit(small, static_argnames="implementation")
oracle = jax.jit(reference.companion_scan)


def draw(dtype, length, order, masks, radius=0.9, batch=2, width=3, seed=0):
    """Operands with poles near ``radius``, and masks or None."""
    rng = np.random.default_rng(seed)
    base = -np.poly(radius * np.exp(2j * np.pi * np.arange(order) / order + 0.1j)).real[1:]
    a = base + 0.05 * rng.normal(size=(batch, length, width, order))
    x = rng.normal(size=(batch, length, width))
    state = rng.normal(size=(batch, width, order))
    start = jnp.asarray(rng.random((batch, length)) < 0.1) if masks else None
    valid = jnp.asarray(rng.random((batch, length)) < 0.8) if masks else None
    return tuple(jnp.asarray(v, dtype) for v in (x, a, state)), (start, valid)


@every_implementation
@pytest.mark.parametrize(
    "length, order, masks",
    [(1, 3, True), (1, 2, False), (7, 4, True), (8, 3, False), (9, 2, True), (13, 1, False)],
)
@pytest.mark.one_in(5)
def test_states_are_the_oracles(length, order, masks, implementation, dtype):
    operands, (start, valid) = draw(dtype, length, order, masks)
    expected = oracle(*operands, start, valid)
    actual = scan(*operands, start, valid, implementation)
    assert_close(actual, expected, dtype)
    assert actual[0].dtype == dtype


@every_implementation
@pytest.mark.parametrize("length", [1, 19])
@pytest.mark.one_in(3)
def test_gradients_are_the_oracles(length, implementation, dtype):
    operands, masks = draw(dtype, length, 3, masks=True, seed=1)
    weights = jnp.cos(jnp.arange(2.0 * (length + 1) * 9, dtype=dtype))

    def loss(run, operands):
        states, final = run(*operands, *masks)
        return weights @ jnp.concatenate([states.ravel(), final.ravel()])

    fast = functools.partial(small, implementation=implementation)
    grad = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    expected = grad(reference.companion_scan, operands)
    assert np.any(np.asarray(expected[2]))
    assert_close(grad(fast, operands), expected, dtype)


@every_implementation
@pytest.mark.parametrize("radius", [1e-4, 0.5, 0.999])
def test_every_decay(radius, implementation):
    dtype = "float32"
    (x, a, state), _ = draw(dtype, 53, 2, masks=False, radius=radius)
    a = jnp.broadcast_to(jnp.mean(a, 1, keepdims=True), a.shape) * min(1, 2 * radius)
    expected = oracle(x, a, state)
    assert_close(scan(x, a, state, implementation=implementation), expected, dtype)


@every_implementation
def test_pieces_join(implementation):
    dtype = "float32"
    (x, a, state), (start, valid) = draw(dtype, 20, 3, masks=True, seed=2)
    whole, final = scan(x, a, state, start, valid, implementation)
    parts = []
    for low, high in ((0, 1), (1, 8), (8, 20)):
        now = slice(low, high)
        part, state = scan(
            x[:, now], a[:, now], state, start[:, now], valid[:, now], implementation
        )
        parts.append(part)
    assert_close((jnp.concatenate(parts, 1), state), (whole, final), dtype)


@every_implementation
def test_a_document_forgets_and_padding_waits(implementation):
    (x, a, state), _ = draw("float32", 12, 3, masks=False)
    start = jnp.zeros((2, 12), bool).at[:, 5].set(True)
    valid = jnp.ones((2, 12), bool).at[:, 9:].set(False)

    def last(x, state):
        return jnp.sum(small(x, a, state, start, valid, implementation)[1])

    to_x, to_state = jax.jit(jax.grad(last, argnums=(0, 1)))(x, state)
    assert not np.any(to_state) and not np.any(to_x[:, :5]) and not np.any(to_x[:, 9:])
    assert np.all(to_x[:, 5:9])
    # A start at padding does not count either.
    late = start.at[:, 10].set(True)
    states, _ = scan(x, a, state, late, valid, implementation)
    np.testing.assert_array_equal(states[:, 11], states[:, 8])


@every_implementation
def test_narrow_operands_are_computed_in_float32(implementation):
    operands, _ = draw("bfloat16", 20, 2, masks=False)
    states, final = scan(*operands, implementation=implementation)
    assert states.dtype == final.dtype == jnp.float32
    expected = oracle(*(v.astype("float32") for v in operands))
    assert_close((states, final), expected, "float32")


def test_no_tokens_leave_the_state():
    operands, _ = draw("float32", 0, 2, masks=False)
    states, final = companion_scan(*operands)
    assert states.shape == (2, 0, 3, 2)
    np.testing.assert_array_equal(final, operands[2])


@pytest.mark.parametrize("wrong", [{"implementation": "fast"}, {"chunk_size": 0}])
def test_wrong_arguments_are_named(wrong):
    operands, _ = draw("float32", 4, 2, masks=False)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        companion_scan(*operands, **wrong)


def test_products_of_polynomials_are_convolutions():
    rng = np.random.default_rng(0)
    p, q, r = rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), rng.normal(size=(4, 4))
    expected = [np.convolve(np.convolve(*pq), last) for *pq, last in zip(p, q, r, strict=True)]
    actual = expand_polynomial(*(jnp.asarray(v, "float32") for v in (p, q, r)))
    assert_close(actual, np.stack(expected), "float32")
