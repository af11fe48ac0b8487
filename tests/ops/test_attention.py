"""Masks count what they should, and blocks change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import attention_xla
from bmojo.ops.attention_mass import over_blocks
from bmojo.ops.attention_xla import attend, causal_attention, memory_attention
from bmojo.ops.masks import NEVER, Slots, memory_keys, visible
from tests.numerics import assert_close


def draw(rng, *shape, dtype="float32"):
    return jnp.asarray(rng.normal(size=shape), dtype)


def test_a_window_of_w_shows_w_keys_and_the_start_fewer():
    position = jnp.arange(20)
    distance = position[:, None] - position
    counts = np.asarray(visible(distance, position[:, None], window=6)).sum(axis=1)
    assert counts.tolist() == [min(t + 1, 6) for t in range(20)]


def test_nothing_is_visible_before_the_document():
    segment_pos = jnp.array([0, 1, 2, 0, 1, 2, 3])
    distance = jnp.arange(7)[:, None] - jnp.arange(7)
    counts = np.asarray(visible(distance, segment_pos[:, None])).sum(axis=1)
    assert counts.tolist() == [1, 2, 3, 1, 2, 3, 4]


@pytest.mark.parametrize(("length", "offset"), [(2, None), (40, None), (43, 3), (7, 5)])
@pytest.mark.one_in(3)
def test_every_query_of_the_layer_sees_exactly_window_plus_slots_keys(length, offset):
    """K = W + m_f + m_e once the memory is full (design: the chunked form)."""
    window, count = 8, 5
    chunks = -(-length // window) + (offset is not None)
    nothing = jnp.zeros((1, length, 2, 4))
    tail = nothing[:, :1].repeat(window - 1, axis=1)

    def look(v, held, distance):
        """Shares of what counts one, in a softmax of equal weights."""
        at = jnp.full((1, chunks, count, 2, 4), held)
        out = memory_attention(
            nothing, nothing, v, tail, tail, jnp.arange(1000, 1000 + length)[None], window=window,
            slots=Slots(jnp.zeros_like(at), at, jnp.full((1, chunks, 1, count), distance)),
            offset=None if offset is None else jnp.array([offset]),
        )  # fmt: skip
        return np.asarray(out)[0, :, 0, 0]

    np.testing.assert_allclose(look(nothing, 1.0, 3), count / (window + count), rtol=1e-6)
    assert (look(nothing, 1.0, NEVER) == 0).all()
    for token in (0, length // 2):
        seen = np.zeros(length)
        seen[token : token + window] = 1
        one = nothing.at[:, token].set(1)
        np.testing.assert_allclose(look(one, 0.0, 3), seen / (window + count), rtol=1e-6)
        np.testing.assert_allclose(look(one, 1.0, NEVER), seen / window, rtol=1e-6)


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
    assert_close(attend(q, k, v, jnp.asarray(mask)[None]), naive(q, k, v, mask), dtype)


@pytest.mark.parametrize(
    ("length", "block", "groups"),
    [(1, (7, 5), 1), (31, (7, 5), 2), (130, (16, 64), 1), (150, (128, 256), 2)],
)
@pytest.mark.one_in(3)
def test_causal_attention_in_blocks_is_causal_attention(dtype, length, block, groups, monkeypatch):
    monkeypatch.setattr(attention_xla, "QUERIES", block[0])
    monkeypatch.setattr(attention_xla, "KEYS", block[1])
    rng = np.random.default_rng(1)
    q = draw(rng, 1, length, 2, 4, dtype=dtype)
    k, v = (draw(rng, 1, length, groups, 4, dtype=dtype) for _ in range(2))
    segment_pos = jnp.arange(length)[None] % 77
    distance = jnp.arange(length)[:, None] - jnp.arange(length)
    mask = visible(distance, segment_pos[0][:, None])
    want = naive(q[0], k[0], v[0], mask)
    assert_close(causal_attention(q, k, v, segment_pos)[0], want, dtype)
    assert_close(causal_attention(q, k, v, segment_pos, jnp.arange(length)[None])[0], want, dtype)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.one_in(3)
def test_causal_attention_has_the_gradient_of_one_softmax(dtype, groups, monkeypatch):
    monkeypatch.setattr(attention_xla, "QUERIES", 7)
    monkeypatch.setattr(attention_xla, "KEYS", 10)
    rng = np.random.default_rng(3)
    length, places = 33, 50
    q = draw(rng, 2, length, 2, 4, dtype=dtype)
    k, v = (draw(rng, 2, places, groups, 4, dtype=dtype) for _ in range(2))
    position = jnp.arange(length) + jnp.array([[0], [12]])
    segment_pos = jnp.minimum(position, jnp.array([[100], [9]]))
    mask = visible(position[..., None] - jnp.arange(places), segment_pos[..., None])

    def gradients(look):
        def loss(q, k, v):
            out = look(q, k, v)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

        return jax.grad(loss, range(3))(q, k, v)

    found = gradients(lambda q, k, v: causal_attention(q, k, v, segment_pos, position))
    assert_close(found, gradients(lambda q, k, v: attend(q, k, v, mask[:, None])), dtype)


@pytest.mark.parametrize(
    ("block", "offset", "groups", "heads"),
    [
        (1, None, 1, 1),
        (3, None, 2, 1),
        (4, (0, 5), 1, 1),
        (64, (0, 5), 2, 1),
        (64, None, 2, 1),
        (4, (0, 5), 2, 2),  # slots of each key-value head
        (64, None, 2, 2),
    ],
)
@pytest.mark.one_in(5)
def test_blocks_have_the_output_and_the_gradient_of_one_softmax(
    dtype, block, offset, groups, heads, monkeypatch
):
    monkeypatch.setattr(attention_xla, "QUERIES", block)
    monkeypatch.setattr(attention_xla, "FEW", 1)
    rng = np.random.default_rng(2)
    window, length = 8, 29
    chunks = 4 if offset is None else 5
    q = draw(rng, 2, length, 2, 4, dtype=dtype)
    k, v = (draw(rng, 2, length, groups, 4, dtype=dtype) for _ in range(2))
    tails = [draw(rng, 2, window - 1, groups, 4, dtype=dtype) for _ in range(2)]
    held = [draw(rng, 2, chunks, 3, groups, 4, dtype=dtype) for _ in range(2)]
    distance = rng.integers(1, 30, (2, chunks, heads, 3))
    distance[:, :, 0, 0] = NEVER
    rest = {"window": window, "offset": None if offset is None else jnp.array(offset)}
    segment_pos = jnp.stack([jnp.arange(9, 38), jnp.arange(29) % 11])

    def gradients(look):
        def loss(q, k, v, tail_k, tail_v, held_k, held_v):
            slots = Slots(held_k, held_v, jnp.asarray(distance, jnp.int32))
            options = [{"slot_range": (0, None)}, {"slot_range": (4, 25)}]
            outs = [
                look(q, k, v, tail_k, tail_v, segment_pos, slots=slots, **more, **rest)
                for more in options
            ]
            weight = jnp.cos(jnp.arange(q.size)).reshape(q.shape)
            return sum(jnp.sum(out * weight) for out in outs), outs

        return jax.grad(loss, range(7), has_aux=True)(q, k, v, *tails, *held)

    def plain(q, *args, **kwargs):
        keys = memory_keys(*args, **kwargs)
        return over_blocks(lambda q, k, *rest: attend(q, k, *rest), q, keys.k, keys.v, keys.mask)

    assert_close(gradients(memory_attention), gradients(plain), dtype)
