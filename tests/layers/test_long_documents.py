"""Ages beyond 2^24, ids of 64 bits, and the references' initial values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from tests.numerics import assert_close

CELL = SelectiveSSMConfig(expand=1, d_state=4)
NORMALIZED = BMojoConfig(
    window=8, num_fading=2, num_eidetic=3, fading=CELL, normalize_innovation=True
)
OLD = 2**26


@pytest.mark.parametrize("config", [CELL, NORMALIZED, AttentionConfig(window=8)])
def test_ids_of_64_bits_keep_the_dtypes_of_the_state(config):
    with jax.enable_x64(True):
        mixer = law.make(config, jnp.float32)
        ids = jnp.asarray([[1] * 9 + [2] * 12] * 2, jnp.int64)
        before = mixer.init_state(2, 64)
        out, after = law.run(mixer, law.draw(jnp.float32, 2, 21), before, ids)
        again, _ = law.run(mixer, law.draw(jnp.float32, 2, 21), before, ids.astype(jnp.int32))
        dtypes = [[x.dtype for x in jax.tree.leaves(state)] for state in (before, after)]
    assert dtypes[0] == dtypes[1] and np.array_equal(out, again)


def aged(state, by):
    """A state whose rows and documents have seen so many tokens more."""
    positions = state.positions
    older = dataclasses.replace(
        positions, position=positions.position + by, segment_pos=positions.segment_pos + by
    )
    return dataclasses.replace(state, positions=older)


def test_a_rotated_window_is_as_exact_at_any_age():
    mixer = law.make(AttentionConfig(window=8, rope=True, n_heads=2), jnp.float32)
    u = law.draw(jnp.float32, 1, 40)
    want, _ = law.run(mixer, u, None)
    out, _ = law.run(mixer, u, aged(mixer.init_state(1), OLD), cuts=(13, 14, 30))
    # The window is full from token 7 on.
    assert_close(out[:, 8:], want[:, 8:], "float32")


def test_normalized_innovation_carries_a_mean():
    mixer = law.make(NORMALIZED, jnp.float32)
    u = law.draw(jnp.float32, 1, 24)
    _, young = law.run(mixer, u, None)
    _, pieces = law.run(mixer, u, mixer.init_state(1), cuts=(5, 16))
    power = young.eidetic.chosen.power
    assert_close(pieces.eidetic.chosen.power, power, "float32")
    # Means of so many tokens do not move, neither does what is measured by them.
    old = aged(young, OLD)
    for _ in range(3):
        _, old = law.one_by_one(mixer, u, old)
    assert_close(old.eidetic.chosen.power, power, "float32")
    assert not np.allclose(law.run(mixer, u, young)[1].eidetic.chosen.power, power, rtol=1e-3)


@pytest.mark.parametrize("config", [CELL, SSDConfig(n_heads=2), CanonicalSSMConfig()])
@pytest.mark.one_in(2)
def test_projections_may_start_as_in_the_references(config):
    uniform = dataclasses.replace(config, projection_init="uniform")
    ours, theirs = (law.make(c, jnp.float32, d_model=64) for c in (config, uniform))
    for name in ("in_proj", "out_proj"):
        kernel, small = getattr(ours, name).kernel[...], getattr(theirs, name).kernel[...]
        bound = kernel.shape[0] ** -0.5
        assert 0.95 * bound < jnp.abs(small).max() <= bound < jnp.abs(kernel).max()
        assert abs(kernel.std() / small.std() / 3**0.5 - 1) < 0.1
    with pytest.raises(ValueError, match="^projection_init: must be 'lecun' or 'uniform', got 'x'"):
        dataclasses.replace(config, projection_init="x")


def test_the_norm_of_mamba_2_has_an_epsilon_of_its_own():
    # Of outputs as small as the epsilon's root, which then matters.
    u = law.draw(jnp.float32, 1, 9) * 1e-3
    outs = [
        law.run(law.make(SSDConfig(n_heads=2, norm_epsilon=e), jnp.float32), u, None)[0]
        for e in (1e-6, 1e-5)
    ]
    assert law.make(SSDConfig(n_heads=2), jnp.float32).norm.epsilon == 1e-6
    assert law.relative_rms(*outs) > 0.5
    with pytest.raises(ValueError, match="^norm_epsilon: must be positive, got 0"):
        SSDConfig(norm_epsilon=0.0)
