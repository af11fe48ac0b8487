"""The aux output shows where the attention of the very same call went."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.protocol import AuxRequest
from bmojo.ops import attention_mass, reference
from bmojo.ops.masks import EIDETIC, FADING, WINDOW, distance_bin
from bmojo.ops.positions import Positions, advance
from bmojo.ops.time_sharding import TimeContext
from tests.layers.test_bmojo import CASES, fading_key_values
from tests.numerics import assert_close

LENGTH, BINS = 20, 6


@functools.partial(jax.jit, static_argnums=0)
def _trace(graph, parameters, u, state):
    return nnx.merge(graph, parameters)(u, state, aux=AuxRequest(bins=BINS))[2]


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


def eidetic(config):
    return getattr(config, "num_eidetic", 0)


def oracle(mixer, u):
    """Innovation, and weights (L, H, L) of tokens and of SSM outputs, from the slow reference.

    The values are one-hot, so that the output of attention is its weights. That takes
    heads as wide as two texts; zeros in keys and a longer query leave the scores alone.
    """
    config, length = mixer.config, u.shape[1]
    y, _ = mixer.fading(u, None)
    document = [0] * length
    with jax.disable_jit():
        score = reference.innovation(y[0], getattr(config, "span", 1), document)
    state, (tokens, _) = mixer.init_state(1), advance(Positions.zero(1), length)
    q, new, _ = mixer.heads.contextualised(
        u, y, state.inputs, tokens.segment_pos, TimeContext(True)
    )
    q, new = q[0], jax.tree.map(lambda x: x[0], new)
    faded = fading_key_values(mixer, y[0])
    wide = 2 * length

    def widened(x):
        return jnp.pad(x, [(0, 0), (0, 0), (0, wide - x.shape[2])])

    one = jnp.broadcast_to(jnp.eye(length, wide)[:, None], (length, mixer.heads.n_kv_heads, wide))
    out = reference.memory_attention(
        widened(q) * (wide / q.shape[2]) ** 0.5, widened(new.k), one,
        widened(faded.k), jnp.roll(one, length, axis=-1), score, document,
        window=config.window, num_fading=getattr(config, "num_fading", 0),
        num_eidetic=eidetic(config), form="chunked" if hasattr(config, "span") else "sliding",
    )  # fmt: skip
    return score, out[..., :length], out[..., length:]


@pytest.mark.parametrize("case", ["bmojo", "conv", "sliding"])
@pytest.mark.one_in(2)
def test_shares_are_those_of_the_oracle(case):
    mixer = law.make(CASES[case], jnp.float32)
    u = law.draw(jnp.float32, 1, LENGTH)
    found = traced(mixer, u)
    score, tokens, outputs = oracle(mixer, u)
    spread = np.asarray(found.mass[0])
    np.testing.assert_allclose(spread.sum((2, 3)), 1, rtol=1e-5)
    # A token may be in the window and in a slot; the reference adds up what it gets.
    assert_close(spread[:, :, WINDOW] + spread[:, :, EIDETIC], octaves(tokens), "float32")
    assert_close(spread[:, :, FADING], octaves(outputs), "float32")
    reach = int(distance_bin(jnp.asarray(mixer.config.window - 1)))
    assert not spread[:, :, WINDOW, reach + 1 :].any()
    if eidetic(mixer.config):
        assert spread[:, :, EIDETIC].any()
        assert_close(found.innovation[0], np.asarray(score, np.float32), "float32")
    else:
        assert found.innovation is None
        assert not spread[:, :, EIDETIC].any()


@pytest.mark.parametrize("case", ["bmojo", "wide"])
def test_slots_are_those_of_the_state(case):
    """What the first query of a chunk sees is the running set that the chunk before left."""
    mixer = law.make(CASES[case], jnp.float32)
    u = law.draw(jnp.float32, 1, LENGTH)
    held = np.asarray(traced(mixer, u).held[0])
    window = mixer.config.window
    for edge in range(0, LENGTH, window):
        left = set()
        if edge:
            chosen = law.run(mixer, u, None, lengths=jnp.asarray([edge]))[1].eidetic.chosen
            left = set(np.asarray(chosen.position)[np.asarray(chosen.score) >= 0].tolist())
        assert set(held[edge][held[edge] >= 0].tolist()) == left
    assert len(left) == mixer.config.num_eidetic


@pytest.mark.parametrize("case", ["bmojo", "sliding", "window", "full"])
@pytest.mark.one_in(3)
def test_from_a_state_it_goes_on(case, monkeypatch):
    """In segments as in one piece, and one block of queries after another."""
    config = CASES.get(case)
    if config is None:
        window = 6 if case == "window" else None
        config = AttentionConfig(n_heads=2, n_kv_heads=1, window=window, rope=True)
    mixer = law.make(config, jnp.float32)
    u = law.draw(jnp.float32, 1, LENGTH)
    whole = traced(mixer, u)
    monkeypatch.setattr(attention_mass, "SCORES_AT_ONCE", 300)
    state = law.run(mixer, u[:, :8], mixer.init_state(1, 64))[1]
    rest = traced(mixer, u[:, 8:], state)
    assert_close(rest.mass, whole.mass[:, 8:], "float32")
    if case != "bmojo":
        assert rest.innovation is None and rest.held is None
        return
    assert_close(rest.innovation, whole.innovation[:, 8:], "float32")
    for now, then in zip(rest.held[0], whole.held[0, 8:], strict=True):
        assert set(now.tolist()) | {-1} == set(then.tolist()) | {-1}


def test_a_layer_without_a_window_has_nothing_to_trace():
    mixer = law.make(BMojoConfig(window=0, num_fading=0, num_eidetic=0), jnp.float32)
    found = mixer(law.draw(jnp.float32, 1, 3), mixer.init_state(1), aux=AuxRequest(True, 2))[2]
    assert not jax.tree.leaves(found)
