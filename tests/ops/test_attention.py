"""Masks count what they should, and blocks change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import attention
from bmojo.ops.attention import NEVER, Slots, attend, causal_attention, memory_attention, visible
from tests.numerics import assert_close


def draw(rng, *shape, dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def test_a_window_of_w_shows_w_keys_and_the_start_fewer():
    position = jnp.arange(20)
    distance = position[:, None] - position
    counts = np.asarray(visible(distance, position[:, None], window=6)).sum(axis=1)
    assert counts.tolist() == [min(t + 1, 6) for t in range(20)]


def test_nothing_is_visible_before_the_document():
    age = jnp.array([0, 1, 2, 0, 1, 2, 3])
    distance = jnp.arange(7)[:, None] - jnp.arange(7)
    counts = np.asarray(visible(distance, age[:, None])).sum(axis=1)
    assert counts.tolist() == [1, 2, 3, 1, 2, 3, 4]


def test_every_query_of_the_layer_sees_exactly_window_plus_slots_keys(monkeypatch):
    """K = W + m_f + m_e once the memory is full (design: the chunked form)."""
    window, slots, length = 8, 5, 40
    masks = []
    monkeypatch.setattr(
        attention, "attend", lambda q, k, v, mask: masks.append(np.asarray(mask)) or q
    )
    q = jnp.zeros((1, length, 2, 4))
    held = jnp.zeros((1, length // window, slots, 2, 4))
    memory_attention(
        q, q, q, q[:, : window - 1], q[:, : window - 1],
        jnp.arange(1000, 1000 + length)[None], window=window,
        slots=Slots(held, held, jnp.full(held.shape[:3], 3)),
    )  # fmt: skip
    assert (masks[0].sum(axis=-1) == window + slots).all()
    masks.clear()
    held = held.at[:, :, :2].get()
    memory_attention(
        q, q, q, q[:, : window - 1], q[:, : window - 1],
        jnp.arange(1000, 1000 + length)[None], window=window,
        slots=Slots(held, held, jnp.full(held.shape[:3], NEVER)),
    )  # fmt: skip
    assert (masks[0].sum(axis=-1) == window).all()


def naive(q, k, v, mask):
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(np.asarray(x, np.float64), group, axis=1) for x in (k, v))
    scores = np.einsum("lhp,shp->hls", np.asarray(q, np.float64), k) / q.shape[-1] ** 0.5
    scores = np.where(np.asarray(mask), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hls,shp->lhp", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attend_is_softmax_attention_with_grouped_heads(dtype, groups):
    rng = np.random.default_rng(0)
    q, k = draw(rng, 7, 4, 6, dtype=dtype), draw(rng, 9, groups, 6, dtype=dtype)
    v = draw(rng, 9, groups, 6, dtype=dtype)
    mask = rng.random((7, 9)) < 0.5
    mask[:, 0] = True
    assert_close(attend(q, k, v, jnp.asarray(mask)), naive(q, k, v, mask), dtype)


@pytest.mark.parametrize("length", [1, 31, 130, 150])
@pytest.mark.parametrize("scores", [200, 2**22])
def test_causal_attention_in_blocks_is_causal_attention(dtype, length, scores, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores)
    rng = np.random.default_rng(1)
    q, k, v = (draw(rng, 1, length, 2, 4, dtype=dtype) for _ in range(3))
    age = jnp.arange(length)[None] % 77
    distance = jnp.arange(length)[:, None] - jnp.arange(length)
    mask = visible(distance, age[0][:, None])
    want = naive(q[0], k[0], v[0], mask)
    assert_close(causal_attention(q, k, v, age)[0], want, dtype)
    assert_close(causal_attention(q, k, v, age, jnp.arange(length)[None])[0], want, dtype)


def test_one_block_at_a_time_gives_the_same_gradient(dtype, monkeypatch):
    rng = np.random.default_rng(2)
    q, k, v = (draw(rng, 2, 29, 2, 4, dtype=dtype) for _ in range(3))
    tail = draw(rng, 2, 7, 2, 4, dtype=dtype)
    held = draw(rng, 2, 4, 3, 2, 4, dtype=dtype)
    age = jnp.broadcast_to(jnp.arange(9, 38), (2, 29))

    def loss(q, k, v, tail, held):
        slots = Slots(held, held, jnp.full(held.shape[:3], 2))
        out = memory_attention(q, k, v, tail, tail, age, window=8, slots=slots)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    together = jax.grad(loss, range(5))(q, k, v, tail, held)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1)
    assert_close(jax.grad(loss, range(5))(q, k, v, tail, held), together, dtype)
