"""The state-space mixers obey the law of the house, and start as their papers say."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.layers.protocol import Mixer
from bmojo.layers.selective_ssm import SelectiveSSMConfig, init_dt_bias
from bmojo.layers.ssd import SSDConfig
from tests.layers import law
from tests.numerics import assert_close, relative_rms

CASES = {
    "selective": SelectiveSSMConfig(d_state=3),
    "selective-associative": SelectiveSSMConfig(
        d_state=3, d_conv=2, expand=1, implementation="associative"
    ),
    "ssd": SSDConfig(d_state=5, n_heads=3, chunk_size=4),
    "ssd-without-conv": SSDConfig(d_state=5, n_heads=2, d_conv=1, d_inner=6, chunk_size=8),
}
MAIN = ("selective", "ssd")
each_kind = pytest.mark.parametrize("case", MAIN)


@each_kind
def test_parallel_is_recurrent_is_segments(case):
    with jax.enable_x64(True):
        law.check_forms(CASES[case], jnp.dtype("float64"), length=18, cuts=(1, 9, 10))


@pytest.mark.parametrize("case", sorted(set(CASES) - set(MAIN)))
def test_other_variants_split_too(case):
    mixer = law.make(CASES[case], jnp.float32)
    u = law.draw(jnp.float32, 2, 18)
    assert_close(law.run(mixer, u, None, cuts=(9,)), law.run(mixer, u, None), jnp.float32)


@each_kind
def test_gradients_of_all_forms_agree(case):
    with jax.enable_x64(True):
        law.check_gradients(CASES[case], jnp.dtype("float64"), length=14, cuts=(7,))


@each_kind
def test_ragged_rows_are_rows_alone(case):
    law.check_ragged(CASES[case], jnp.dtype("float32"))


@each_kind
def test_a_packed_document_is_the_document_alone(case):
    law.check_packed(CASES[case], jnp.dtype("float32"))


@each_kind
def test_neither_future_nor_other_documents_leak(case):
    law.check_isolation(CASES[case], jnp.dtype("float32"))


@each_kind
@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    pieces=st.permutations([1, 1, 1, 4, 4]),
    documents=st.lists(st.booleans(), min_size=11, max_size=11),
    valid=st.lists(st.integers(0, 11), min_size=2, max_size=2),
)
def test_splits_documents_and_padding_anywhere(case, pieces, documents, valid):
    dtype = jnp.dtype("float32")
    mixer = law.make(CASES[case], dtype)
    u = law.draw(dtype, 2, 11)
    ids = jnp.asarray(np.cumsum([documents, documents[::-1]], axis=1), jnp.int32)
    lengths = jnp.asarray(valid, jnp.int32)
    edges = np.cumsum(pieces)[:-1].tolist()
    given = law.warm(mixer, dtype)
    whole, last = law.run(mixer, u, given, ids, lengths)
    parts, last_parts = law.run(mixer, u, given, ids, lengths, cuts=edges)
    assert_close(last_parts, last, dtype, "state ")
    for row, count in enumerate(valid):
        assert_close(parts[row, :count], whole[row, :count], dtype, f"row {row} ")


@each_kind
def test_bfloat16_computes_close_to_float32(case):
    u = law.draw(jnp.float32, 2, 17)
    wide, narrow = (
        CASES[case].make(12, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=jnp.float32)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    out, state = law.run(narrow, u.astype(jnp.bfloat16), None)
    want, _ = law.run(wide, u, None)
    assert out.dtype == jnp.bfloat16 and state.tail.dtype == jnp.bfloat16
    assert state.hidden.dtype == jnp.float32
    # Half a dozen roundings to 8 bits on the way.
    assert relative_rms(out.astype(jnp.float32), want) <= 2e-2


def test_steps_start_log_uniform():
    bias = init_dt_bias(jax.random.key(0), 2000, 1e-3, 0.1, jnp.float32)
    dt = np.log10(jax.nn.softplus(bias))
    assert dt.min() >= -3 - 1e-4 and dt.max() <= -1 + 1e-4
    assert abs(np.mean(dt) + 2) < 0.05 and abs(np.std(dt) - 2 / np.sqrt(12)) < 0.05
    for case in MAIN:
        dt = jax.nn.softplus(law.make(CASES[case], jnp.float32).dt_bias[...])
        assert 0.999e-3 <= dt.min() and dt.max() <= 0.1001


def test_parameters_have_the_names_of_the_field():
    selective = nnx.to_pure_dict(nnx.state(law.make(SelectiveSSMConfig(), jnp.float32)))
    ssd = nnx.to_pure_dict(nnx.state(law.make(SSDConfig(), jnp.float32)))
    names = {"in_proj", "conv", "dt_bias", "A_log", "D", "out_proj"}
    assert set(selective) == names | {"x_proj", "dt_proj"}
    assert set(ssd) == names | {"norm"}
    assert np.allclose(np.exp(selective["A_log"]), np.arange(1, 17))
    assert set(selective["conv"]) == {"kernel", "bias"} and np.all(selective["D"] == 1)
    assert 1 <= np.exp(ssd["A_log"]).min() and np.exp(ssd["A_log"]).max() <= 16


def test_flops_are_those_of_matmuls_and_recurrence():
    config = SelectiveSSMConfig(d_state=2, d_conv=3, dt_rank=5)
    mixer = nnx.eval_shape(lambda: law.make(config, jnp.float32, d_model=10))
    matmuls = 2 * (10 * 40 + 20 * (5 + 4) + 5 * 20 + 20 * 10)
    assert mixer.flops_per_token(64) == matmuls + 2 * 3 * 20 + 20 * (7 * 2 + 3)
    config = SSDConfig(d_state=2, d_conv=3, chunk_size=8)
    mixer = nnx.eval_shape(lambda: law.make(config, jnp.float32, d_model=10))
    matmuls = 2 * (10 * (20 + 24 + 4) + 20 * 10) + 2 * 3 * 24
    assert mixer.flops_per_token(64) == matmuls + 2 * 8 * (2 + 20) + 4 * 2 * 20
    assert mixer.flops_per_token(4) == matmuls + 2 * 4 * (2 + 20) + 4 * 2 * 20


@each_kind
def test_the_protocol(case):
    mixer = law.make(CASES[case], jnp.float32)
    assert isinstance(mixer, Mixer)
    some, more = ([x.shape for x in jax.tree.leaves(mixer.init_state(2, n))] for n in (None, 999))
    assert some == more


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SelectiveSSMConfig(d_state=0), "d_state: must be at least 1, got 0"),
        (lambda: SelectiveSSMConfig(dt_min=0.2), "dt_min: must be positive and at most dt_max"),
        (lambda: SSDConfig(chunk_size=0), "chunk_size: must be at least 1, got 0"),
        (lambda: SSDConfig(d_inner=6), "n_heads: must divide d_inner = 6, got 4"),
        (
            lambda: law.make(SSDConfig(n_heads=5), jnp.float32),
            "n_heads: must divide the inner width 24, got 5",
        ),
    ],
)
def test_wrong_configs_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
