"""The state-space mixers obey the law of the house, and start as their papers say."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo import testing as law
from bmojo.layers.protocol import Mixer
from bmojo.layers.selective_ssm import SelectiveSSMConfig, init_dt_bias
from bmojo.layers.ssd import SSDConfig
from bmojo.ops import reference
from tests.numerics import assert_close, relative_rms

CASES = {
    "selective": SelectiveSSMConfig(d_state=3),
    "selective-associative": SelectiveSSMConfig(
        d_state=3, d_conv=2, expand=1, implementation="associative"
    ),
    "ssd": SSDConfig(d_state=5, n_heads=3, chunk_size=4),
    "ssd-without-conv": SSDConfig(d_state=5, n_heads=2, d_conv=1, d_inner=6, chunk_size=8),
    "ssd-limited": SSDConfig(
        d_state=5, n_heads=3, chunk_size=4, conv_bias=False, dt_limit=(0.01, 0.02)
    ),
}
MAIN = ("selective", "ssd")
each_kind = pytest.mark.parametrize("case", MAIN)


@each_kind
def test_parallel_is_recurrent_is_segments(case):
    with jax.enable_x64(True):
        law.check_forms(CASES[case], jnp.dtype("float64"), length=18, cuts=(1, 9, 10))


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(CASES) - set(MAIN)))
def test_other_variants_split_too(case):
    mixer = law.make(CASES[case], jnp.float32)
    u = law.draw(jnp.float32, 2, 18)
    assert_close(law.run(mixer, u, None, cuts=(9,)), law.run(mixer, u, None), jnp.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def convolved(conv, x):
    """The short convolution of one sequence, as a sum over lags."""
    kernel = np.asarray(conv.kernel[...])
    past = np.concatenate([np.zeros((len(kernel) - 1, x.shape[1])), x])
    lags = [w * past[len(kernel) - 1 - i :][: len(x)] for i, w in enumerate(kernel)]
    return np.sum(lags, axis=0) + np.asarray(conv.bias[...])


def selective_from_the_paper(mixer, u):
    """Mamba's block on one sequence."""
    E, R, N = mixer.d_inner, mixer.dt_rank, mixer.config.d_state
    x, z = np.split(u @ np.asarray(mixer.in_proj.kernel), [E], axis=1)
    x = silu(convolved(mixer.conv, x))
    dt, B, C = np.split(x @ np.asarray(mixer.x_proj.kernel), [R, R + N], axis=1)
    dt = np.log1p(np.exp(dt @ np.asarray(mixer.dt_proj.kernel) + np.asarray(mixer.dt_bias[...])))
    x_, dt_, B_, C_ = (jnp.asarray(v[None]) for v in (x, dt, B, C))
    A = -jnp.exp(mixer.A_log[...])
    y, _ = reference.selective_scan(x_, dt_, A, B_, C_, jnp.zeros((1, E, N)))
    y = (np.asarray(y)[0] + np.asarray(mixer.D[...]) * x) * silu(z)
    return y @ np.asarray(mixer.out_proj.kernel)


def ssd_from_the_paper(mixer, u):
    """Mamba-2's block on one sequence."""
    E, H, N = mixer.d_inner, mixer.config.n_heads, mixer.config.d_state
    z, xBC, dt = np.split(u @ np.asarray(mixer.in_proj.kernel), [E, 2 * E + 2 * N], axis=1)
    x, B, C = np.split(silu(convolved(mixer.conv, xBC)), [E, E + N], axis=1)
    x = x.reshape(-1, H, E // H)
    dt = np.log1p(np.exp(dt + np.asarray(mixer.dt_bias[...])))
    x_, dt_, B_, C_ = (jnp.asarray(v[None]) for v in (x, dt, B, C))
    A = -jnp.exp(mixer.A_log[...])
    y, _ = reference.ssd(x_, dt_, A, B_, C_, jnp.zeros((1, H, E // H, N)))
    y = np.asarray(y)[0] + np.asarray(mixer.D[...])[:, None] * x
    y = y.reshape(-1, E) * silu(z)
    y = y / np.sqrt(np.mean(y**2, axis=1, keepdims=True) + 1e-6)
    return (y * np.asarray(mixer.norm.scale[...])) @ np.asarray(mixer.out_proj.kernel)


@each_kind
def test_the_block_is_that_of_its_paper(case):
    from_the_paper = {"selective": selective_from_the_paper, "ssd": ssd_from_the_paper}[case]
    with jax.enable_x64(True):
        mixer = law.make(CASES[case], jnp.float64)
        rng = np.random.default_rng(2)
        mixer.D[...] = jnp.asarray(rng.normal(size=mixer.D.shape))
        u = law.draw(jnp.float64, 1, 14)
        out, _ = law.run(mixer, u, None)
        assert_close(out[0], from_the_paper(mixer, np.asarray(u[0])), jnp.float64)


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


@each_kind
def test_bfloat16_forgets_as_slowly_as_float32(case):
    mixer = CASES[case].make(12, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32)
    mixer.conv.bias[...] = jnp.zeros_like(mixer.conv.bias[...])
    state = mixer.init_state(1)
    assert state.hidden.dtype == jnp.float32
    state = dataclasses.replace(state, hidden=jnp.ones_like(state.hidden))
    # Nothing comes in and the step is that of the bias: the state only decays.
    _, after = law.run(mixer, jnp.zeros((1, 40, 12), jnp.bfloat16), state)
    A, dt = -jnp.exp(mixer.A_log[...]), jax.nn.softplus(mixer.dt_bias[...])
    left = jnp.exp(40 * dt[:, None] * A if A.ndim == 2 else 40 * dt * A)
    left = left if A.ndim == 2 else left[:, None, None]
    assert relative_rms(after.hidden, jnp.broadcast_to(left, after.hidden.shape)) <= 1e-5


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
    assert np.all(ssd["D"] == 1)
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
        (lambda: SSDConfig(dt_limit=(2.0, 1.0)), "dt_limit: must be two rising numbers"),
        (lambda: SSDConfig(norm_epsilon=0.0), "norm_epsilon: must be positive, got 0.0"),
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
