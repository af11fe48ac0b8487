"""Attention as a mixer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig

CASES = {
    "full": AttentionConfig(n_heads=2, rope=True),
    "window": AttentionConfig(window=6, n_kv_heads=2),
    "window-rope": AttentionConfig(n_heads=2, window=5, rope=True),
}
every_case = pytest.mark.parametrize("case", CASES)


@every_case
@pytest.mark.one_in(3)
def test_parallel_is_recurrent_is_segments(case, dtype):
    law.check_forms(CASES[case], dtype)


@every_case
@pytest.mark.one_in(3)
def test_gradients_of_all_forms_agree(case, dtype):
    law.check_gradients(CASES[case], dtype)


@every_case
@pytest.mark.one_in(3)
def test_ragged_rows_are_rows_alone(case, dtype):
    law.check_ragged(CASES[case], dtype)


@every_case
def test_a_packed_document_is_the_document_alone(case, dtype):
    law.check_packed(CASES[case], dtype)


@every_case
def test_neither_future_nor_other_documents_leak(case):
    law.check_isolation(CASES[case], jnp.dtype("float32"))


OPTIONS = AttentionConfig(
    n_heads=2, n_kv_heads=1, rope=True, d_head=6, qkv_bias=True, o_bias=True, qk_norm=True
)


@pytest.mark.parametrize("window", [None, 5])
def test_head_width_biases_and_norms(window):
    config = dataclasses.replace(OPTIONS, window=window)
    law.check_forms(config, jnp.dtype("float32"))
    heads = law.make(config, jnp.dtype("float32")).heads
    assert heads.q_proj.kernel.shape[1] == heads.o_proj.kernel.shape[0] == 12
    assert heads.k_proj.bias.shape == (6,) and heads.o_proj.bias is not None
    k = heads.key_values(7 * law.draw(jnp.dtype("float32"), 1, 3)).k
    np.testing.assert_allclose(np.mean(np.square(k), axis=-1), 1, rtol=1e-3)


def test_tokens_beyond_the_capacity_give_nan_not_nonsense():
    mixer = law.make(AttentionConfig(), jnp.dtype("float32"))
    out, _ = law.run(mixer, law.draw(jnp.dtype("float32"), 1, 12), mixer.init_state(1, 10))
    assert np.isfinite(out[:, :10]).all()
    assert np.isnan(out[:, 10:]).all()
