"""What is not finite in one document, or in padding, leaves other tokens and states alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from tests.numerics import assert_close

CELL = SelectiveSSMConfig(expand=1, d_state=4)
BMOJO = BMojoConfig(window=8, num_fading=3, num_eidetic=5, fading=CELL, normalize_innovation=True)
MIXERS = {
    "bmojo": BMOJO,
    "conv": dataclasses.replace(BMOJO, tokens="conv", fading=SSDConfig(n_heads=2)),
    "sliding": SlidingBMojoConfig(window=8, fading=CELL),
    "window": AttentionConfig(window=8, rope=False),
    "attention": AttentionConfig(),
    "ssm": CELL,
    "ssd": SSDConfig(n_heads=2, d_state=4),
    "canonical": CanonicalSSMConfig(),
}
every_mixer = pytest.mark.parametrize("name", MIXERS)


@every_mixer
@pytest.mark.one_in(3)
def test_no_document_reaches_another(name):
    mixer = law.make(MIXERS[name], jnp.float32)
    u = law.draw(jnp.float32, 1, 44)
    ids = jnp.asarray([[1] * 21 + [2] * 23], jnp.int32)
    want, last = law.run(mixer, u, None, ids)
    for at, other in ((9, slice(21, 44)), (20, slice(21, 44)), (21, slice(0, 21))):
        out, after = law.run(mixer, u.at[:, at].set(jnp.nan), None, ids)
        assert_close(out[:, other], want[:, other], "float32", f"token {at} ")
        assert not np.isfinite(out[:, at]).any()
        if at < 21 and name != "attention":  # which holds every token
            assert_close(after, last, "float32", f"token {at} ")
    # The document before the call is lost, and its memory with it.
    lost = law.run(mixer, u.at[:, 5].set(jnp.nan), mixer.init_state(1, 64), jnp.ones_like(ids))[1]
    fine = law.run(mixer, u, mixer.init_state(1, 64), jnp.ones_like(ids))[1]
    got, want = (law.run(mixer, u[:, :7], state, jnp.full((1, 7), 3))[0] for state in (lost, fine))
    assert_close(got, want, "float32", "next call ")


@every_mixer
@pytest.mark.one_in(3)
def test_nothing_comes_out_of_padding(name):
    mixer = law.make(MIXERS[name], jnp.float32)
    u, lengths = law.draw(jnp.float32, 2, 30), jnp.array([11, 0])
    given = law.warm(mixer, jnp.float32)
    want, after = law.run(mixer, u, given, lengths=lengths)
    padded = jnp.where(jnp.arange(30)[:, None] < lengths[:, None, None], u, jnp.nan)
    out, last = law.run(mixer, padded, given, lengths=lengths)
    assert_close(last, after, "float32", "state ")
    assert_close(out[:1, :11], want[:1, :11], "float32")
