"""Calls without rows or without tokens: empty outputs, and the state as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.protocol import AuxRequest
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig

CELL = SelectiveSSMConfig(expand=1, d_state=4)
BMOJO = BMojoConfig(window=8, num_fading=3, num_eidetic=5, fading=CELL)
MIXERS = {
    "bmojo": dataclasses.replace(BMOJO, normalize_innovation=True),
    "untied": dataclasses.replace(BMOJO, tokens="conv", num_fading=0, tie_projections=False),
    "sliding": SlidingBMojoConfig(window=8, fading=CELL, tie_projections=False),
    "window": AttentionConfig(window=8),
    "attention": AttentionConfig(rope=True, n_heads=2),
    "ssm": CELL,
    "ssd": SSDConfig(n_heads=2),
    "canonical": CanonicalSSMConfig(),
    "mlp": MLPConfig(),
}


@pytest.mark.parametrize("rows, length", [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.one_in(5)
def test_nothing_gives_nothing_and_the_state_back(name, rows, length):
    mixer = law.make(MIXERS[name], jnp.float32)
    u = jnp.zeros((rows, length, 12))
    given = mixer.init_state(rows, 64)
    if rows:
        given = law.warm(mixer, jnp.float32)
    for state in (None, given):
        for ids in (None, jnp.zeros((rows, length), jnp.int32)):
            out, after = law.run(mixer, u, state, ids)
            assert out.shape == u.shape and out.dtype == u.dtype
            if state is not None:
                assert jax.tree.structure(after) == jax.tree.structure(given)
                pairs = zip(jax.tree.leaves(after), jax.tree.leaves(given), strict=True)
                assert all(np.array_equal(a, b) for a, b in pairs)
    assert len(mixer(u, given, aux=AuxRequest(entries=True, bins=3))) == 3


def test_projections_of_their_own_without_fading_slots():
    for name in ("untied", "sliding"):
        mixer = law.make(MIXERS[name], jnp.float32)
        out, _ = law.run(mixer, law.draw(jnp.float32, 2, 20), None)
        assert np.isfinite(out).all()
