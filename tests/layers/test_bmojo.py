"""B'MOJO against its oracle, its law, and its special cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.ops import reference
from tests.layers import law
from tests.numerics import assert_close

CELL = SelectiveSSMConfig(expand=1, d_state=4)
BASE = BMojoConfig(window=6, num_fading=3, num_eidetic=5, n_heads=4, fading=CELL, span=2)
CASES = {
    "bmojo": BASE,
    "f": dataclasses.replace(BASE, num_eidetic=0),
    "conv": dataclasses.replace(BASE, tokens="conv", n_kv_heads=2, tie_projections=False),
    "normalized": dataclasses.replace(BASE, normalize_innovation=True, read_fading=False),
    "wide": dataclasses.replace(BASE, window=4, num_eidetic=9, tokens="input"),
    "sliding": dataclasses.replace(BASE, form="sliding", num_eidetic=0),
    "token": dataclasses.replace(BASE, form="token", num_fading=1),
}
every_case = pytest.mark.parametrize("case", CASES)


def cases_and_dtypes(single, double=tuple(CASES)):
    """Every case in both precisions; those not named here only among the slow tests."""
    return pytest.mark.parametrize(
        ("case", "dtype"),
        [
            pytest.param(c, d, marks=() if c in named else pytest.mark.slow)
            for d, named in (("float32", single), ("float64", double))
            for c in CASES
        ],
        indirect=["dtype"],
    )


@cases_and_dtypes([], ["bmojo", "conv", "sliding", "token"])
def test_parallel_is_recurrent_is_segments(case, dtype):
    law.check_forms(CASES[case], dtype)


@cases_and_dtypes([], ["bmojo", "sliding"])
def test_gradients_of_all_forms_agree(case, dtype):
    law.check_gradients(CASES[case], dtype)


@cases_and_dtypes([], ["bmojo", "normalized", "token"])
def test_ragged_rows_are_rows_alone(case, dtype):
    law.check_ragged(CASES[case], dtype)


@cases_and_dtypes([], ["bmojo", "sliding", "token"])
def test_a_packed_document_is_the_document_alone(case, dtype):
    law.check_packed(CASES[case], dtype, grid=CASES[case].window)


@every_case
def test_neither_future_nor_other_documents_leak(case):
    law.check_isolation(CASES[case], jnp.dtype("float32"))


def oracle(mixer, u, ids, offset=0):
    """The layer from the slow reference: loops over time, a list for a memory."""
    config = mixer.config
    y, _ = mixer.fading(u, None, ids)
    start = jnp.diff(ids, axis=1, prepend=ids[:, :1] - 1) != 0
    rows = []
    for b in range(u.shape[0]):
        documents = np.cumsum(np.asarray(start[b])).tolist()
        if config.tokens == "conv":
            made = []
            for t in range(u.shape[1]):
                past = [i for i in range(4) if t - i >= 0 and documents[t - i] == documents[t]]
                made.append(sum(mixer.conv_kernel[...][i] * u[b, t - i] for i in past))
            tokens = u[b] + jnp.stack(made)
        else:
            tokens = u[b] + y[b] if config.tokens == "ssm" else u[b]
        new, faded = mixer.heads.key_values(tokens), mixer._fading_key_values(y[b])
        with jax.disable_jit():
            score = reference.innovation(
                jax.lax.stop_gradient(y[b]), config.span, documents, config.normalize_innovation
            )
        mixed = reference.memory_attention(
            mixer.heads.queries(u[b]), new.k, new.v, faded.k, faded.v, score, documents,
            window=config.window, num_fading=config.num_fading,
            num_eidetic=config.num_eidetic, form=config.form, offset=offset,
        )  # fmt: skip
        out = mixer.heads.output(mixed)
        rows.append(out + y[b] if config.read_fading else out)
    return jnp.stack(rows)


@cases_and_dtypes([])
def test_the_layer_is_its_oracle(case, dtype):
    mixer = law.make(CASES[case], dtype)
    u = law.draw(dtype, 2, 27)
    ids = jnp.asarray([[1] * 27, [1] * 4 + [2] * 9 + [3] * 14], jnp.int32)
    assert_close(law.run(mixer, u, None, ids)[0], oracle(mixer, u, ids), dtype)


@pytest.mark.parametrize("case", ["bmojo", pytest.param("conv", marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_oracle(case):
    """Innovation is a constant to both: the choice of tokens carries no gradient."""
    with jax.enable_x64(True):
        mixer = law.make(CASES[case], jnp.dtype("float64"))
        graph, parameters = nnx.split(mixer, nnx.Param)
        u = law.draw(jnp.dtype("float64"), 1, 19)
        ids = jnp.asarray([[1] * 5 + [2] * 14], jnp.int32)
        scores = []
        real = reference.innovation
        score = real(mixer.fading(u, None, ids)[0][0], mixer.config.span, ids[0].tolist())
        scores.append(score)

        def total(parameters, u, way):
            mixer = nnx.merge(graph, parameters)
            return jnp.sum(jnp.sin(way(mixer, u)))

        def slow(mixer, u):
            reference.innovation = lambda *_: scores[0]
            try:
                return oracle(mixer, u, ids)
            finally:
                reference.innovation = real

        want = jax.grad(total, (0, 1))(parameters, u, slow)
        got = jax.grad(total, (0, 1))(parameters, u, lambda m, u: m(u, None, ids)[0])
        assert_close(got, want, "float64")


def test_without_a_window_it_is_its_fading_cell(dtype):
    config = BMojoConfig(window=0, num_fading=0, num_eidetic=0, fading=CELL)
    mixer = law.make(config, dtype)
    u = law.draw(dtype, 2, 20)
    np.testing.assert_array_equal(law.run(mixer, u, None)[0], law.run(mixer.fading, u, None)[0])


def test_with_a_window_alone_it_is_sliding_window_attention(dtype):
    config = BMojoConfig(
        window=6, num_fading=0, num_eidetic=0, tokens="input", read_fading=False, fading=None
    )
    mixer = law.make(config, dtype)
    attention = law.make(AttentionConfig(window=6), dtype)
    nnx.update(attention.heads, nnx.state(mixer.heads))
    u = law.draw(dtype, 2, 20)
    np.testing.assert_array_equal(law.run(mixer, u, None)[0], law.run(attention, u, None)[0])


def test_slots_hold_the_most_surprising_tokens():
    mixer = law.make(BASE, jnp.dtype("float32"))
    u = law.draw(jnp.dtype("float32"), 1, 24)
    _, state = law.run(mixer, u, None)
    y, _ = mixer.fading(u)
    score = np.asarray(reference.innovation(y[0], BASE.span, [0] * 24))
    best = sorted(range(24), key=lambda t: (-score[t], t))[: BASE.num_eidetic]
    assert np.asarray(state.eidetic.position[0]).tolist() == best


def test_a_memory_of_bfloat16_keeps_its_states_in_float32():
    mixer = law.make(BASE, jnp.bfloat16)
    out, state = law.run(mixer, law.draw(jnp.bfloat16, 1, 15), None)
    assert out.dtype == jnp.bfloat16
    assert state.fading.hidden.dtype == jnp.float32
    assert state.eidetic.score.dtype == jnp.float32
