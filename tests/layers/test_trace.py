"""A trace tells where the attention of the very same call went."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.ops import attention, reference
from bmojo.ops.attention import EIDETIC, FADING, WINDOW, distance_bin
from bmojo.ops.positions import Positions, advance
from tests.layers import law
from tests.layers.test_bmojo import CASES
from tests.numerics import assert_close

LENGTH, BINS = 20, 6


@functools.partial(jax.jit, static_argnums=0)
def _trace(graph, parameters, u, state):
    return nnx.merge(graph, parameters).trace(u, state, bins=BINS)


def traced(mixer, u, state=None):
    graph, parameters = nnx.split(mixer)
    return _trace(
        graph, parameters, u, mixer.init_state(u.shape[0], 64) if state is None else state
    )


def octaves(weights):
    """Weights (L, H, L) of keys by position as shares (L, H, BINS) by octave of distance."""
    shares = np.zeros((*weights.shape[:2], BINS))
    for t, row in enumerate(np.asarray(weights)):
        for p in range(t + 1):
            shares[t, :, int(t - p).bit_length()] += row[:, p]
    return shares


def oracle(mixer, u):
    """Innovation, and weights (L, H, L) of tokens and of SSM outputs, from the slow reference.

    The values are one-hot, so that the output of attention is its weights. That takes
    heads as wide as two texts; zeros in keys and a longer query leave the scores alone.
    """
    config, length = mixer.config, u.shape[1]
    y, _ = mixer.fading(u, None)
    document = [0] * length
    with jax.disable_jit():
        score = reference.innovation(y[0], config.span, document, config.normalize_innovation)
    state, (span, _) = mixer.init_state(1), advance(Positions.zero(1), length)
    new = mixer.heads.key_values(mixer._tokens(u, y, state, span)[0])
    faded, q = mixer._fading_key_values(y[0]), mixer.heads.queries(u[0])
    wide = 2 * length

    def widened(x):
        return jnp.pad(x, [(0, 0), (0, 0), (0, wide - x.shape[2])])

    one = jnp.broadcast_to(jnp.eye(length, wide)[:, None], (length, mixer.heads.n_kv_heads, wide))
    out = reference.memory_attention(
        widened(q) * (wide / q.shape[2]) ** 0.5, widened(new.k), one,
        widened(faded.k), jnp.roll(one, length, axis=-1), score, document,
        window=config.window, num_fading=config.num_fading, num_eidetic=config.num_eidetic,
        form=config.form,
    )  # fmt: skip
    return score, out[..., :length], out[..., length:]


@pytest.mark.parametrize("case", ["bmojo", "conv", "sliding", "token"])
def test_shares_are_those_of_the_oracle(case):
    mixer = law.make(CASES[case], jnp.float32)
    u = law.draw(jnp.float32, 1, LENGTH)
    found = traced(mixer, u)
    score, tokens, outputs = oracle(mixer, u)
    spread = np.asarray(found.spread[0])
    np.testing.assert_allclose(spread.sum((2, 3)), 1, rtol=1e-5)
    # A token may be in the window and in a slot; the reference adds up what it gets.
    assert_close(spread[:, :, WINDOW] + spread[:, :, EIDETIC], octaves(tokens), "float32")
    assert_close(spread[:, :, FADING], octaves(outputs), "float32")
    reach = int(distance_bin(jnp.asarray(mixer.config.window - 1)))
    assert not spread[:, :, WINDOW, reach + 1 :].any()
    if mixer.config.num_eidetic:
        assert spread[:, :, EIDETIC].any()
        assert_close(found.innovation[0], np.asarray(score, np.float32), "float32")
    else:
        assert found.innovation.size == 0
        assert not spread[:, :, EIDETIC].any()


@pytest.mark.parametrize("case", ["bmojo", "token"])
def test_slots_are_those_of_the_state(case):
    """What the first query of a chunk sees is the running set that the chunk before left."""
    mixer = law.make(CASES[case], jnp.float32)
    u = law.draw(jnp.float32, 1, LENGTH)
    held = np.asarray(traced(mixer, u).held[0])
    window = mixer.config.window
    for edge in range(0, LENGTH, window):
        seen = edge + 1 if case == "token" else edge
        left = set()
        if seen:
            slots = law.run(mixer, u, None, lengths=jnp.asarray([seen]))[1].eidetic
            left = set(np.asarray(slots.position)[np.asarray(slots.score) >= 0].tolist())
        assert set(held[edge][held[edge] >= 0].tolist()) == left
    assert len(left) == mixer.config.num_eidetic


@pytest.mark.parametrize("case", ["bmojo", "sliding", "window", "full"])
def test_from_a_state_it_goes_on(case, monkeypatch):
    """In segments as in one piece, and one block of queries after another."""
    config = CASES.get(case)
    if config is None:
        window = 6 if case == "window" else None
        config = AttentionConfig(n_heads=2, n_kv_heads=1, window=window, rope=True)
    mixer = law.make(config, jnp.float32)
    u = law.draw(jnp.float32, 1, LENGTH)
    whole = traced(mixer, u)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 300)
    state = law.run(mixer, u[:, :8], mixer.init_state(1, 64))[1]
    rest = traced(mixer, u[:, 8:], state)
    assert_close(rest.spread, whole.spread[:, 8:], "float32")
    assert_close(rest.innovation, whole.innovation[:, 8:], "float32")
    for now, then in zip(rest.held[0], whole.held[0, 8:], strict=True):
        assert set(now.tolist()) | {-1} == set(then.tolist()) | {-1}


def test_a_layer_without_a_window_has_nothing_to_trace():
    mixer = law.make(BMojoConfig(window=0, num_fading=0, num_eidetic=0), jnp.float32)
    u, state = law.draw(jnp.float32, 1, 3), mixer.init_state(1)
    assert jax.eval_shape(lambda u, state: mixer.trace(u, state, bins=2), u, state) is None
