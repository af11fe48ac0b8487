"""B'MOJO against its oracle, its law, and its special cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo import testing as law
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_reference import bmojo_reference
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.ops import reference
from tests.numerics import assert_close

CELL = SelectiveSSMConfig(expand=1, d_state=4)
BASE = BMojoConfig(window=6, num_fading=3, num_eidetic=5, n_heads=4, fading=CELL, span=2)
CASES = {
    "bmojo": BASE,
    "f": dataclasses.replace(BASE, num_eidetic=0),
    "conv": dataclasses.replace(BASE, tokens="conv", n_kv_heads=2, tie_projections=False),
    "normalized": dataclasses.replace(BASE, normalize_innovation=True, read_fading=False),
    "wide": dataclasses.replace(BASE, window=4, num_eidetic=9, tokens="input"),
    "sliding": SlidingBMojoConfig(window=6, fading=CELL),
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


@cases_and_dtypes([], ["bmojo", "conv", "sliding"])
@pytest.mark.one_in(2)
def test_parallel_is_recurrent_is_segments(case, dtype):
    law.check_forms(CASES[case], dtype)


@cases_and_dtypes([], ["bmojo", "sliding"])
def test_gradients_of_all_forms_agree(case, dtype):
    law.check_gradients(CASES[case], dtype)


@cases_and_dtypes([], ["bmojo", "normalized"])
def test_ragged_rows_are_rows_alone(case, dtype):
    law.check_ragged(CASES[case], dtype)


@cases_and_dtypes([], ["bmojo", "sliding"])
def test_a_packed_document_is_the_document_alone(case, dtype):
    law.check_packed(CASES[case], dtype, grid=CASES[case].window)


@every_case
@pytest.mark.one_in(3)
def test_neither_future_nor_other_documents_leak(case):
    law.check_isolation(CASES[case], jnp.dtype("float32"))


def names(mixer):
    """Parameters by name, as the reference wants them."""
    flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
    return {".".join(map(str, path)): leaf[...] for path, leaf in flat}


def options(config, **more):
    """The reference's options."""
    fields = {f.name for f in dataclasses.fields(config)}
    kept = fields - {"fading", "tie_projections", "attention_implementation"}
    return {name: getattr(config, name) for name in kept} | more


def reference_of(mixer, u, ids):
    """The layer by the reference: each document of each row by itself, on the row's grid."""
    rows = []
    for row, segments in zip(u, np.asarray(ids), strict=True):
        edges = [0, *(np.flatnonzero(np.diff(segments)) + 1), len(segments)]
        rows.append(
            jnp.concatenate(
                [
                    bmojo_reference(names(mixer), row[a:b], **options(mixer.config), offset=int(a))
                    for a, b in zip(edges, edges[1:], strict=False)
                ]
            )
        )
    return jnp.stack(rows)


DOCUMENTS = jnp.asarray([[1] * 27, [1] * 4 + [2] * 9 + [3] * 14], jnp.int32)


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"], indirect=True
)
@pytest.mark.parametrize("case", [name for name in CASES if name != "sliding"])
@pytest.mark.one_in(3)
def test_the_layer_is_the_reference(case, dtype):
    mixer = law.make(CASES[case], dtype)
    u = law.draw(dtype, 2, 27)
    got = law.run(mixer, u, None, DOCUMENTS)[0]
    assert_close(got, reference_of(mixer, u, DOCUMENTS), dtype)


def fading_key_values(mixer, y):
    """Keys and values of SSM outputs, by whichever projections the layer has."""
    heads = mixer.heads
    tied = mixer.config.tie_projections
    return heads.key_values(y) if tied else heads.fading_key_values(y)


def sliding_oracle(mixer, u, ids):
    """The sliding form from the slow reference of its attention."""
    y, _ = mixer.fading(u, None, ids)
    ids, rows = np.asarray(ids), []
    for b in range(u.shape[0]):
        new, faded = mixer.heads.key_values(u[b] + y[b]), fading_key_values(mixer, y[b])
        documents = np.cumsum(np.diff(ids[b], prepend=ids[b, 0]) != 0).tolist()
        mixed = reference.memory_attention(
            mixer.heads.queries(u[b]), new.k, new.v, faded.k, faded.v, [0.0] * len(documents),
            documents, window=mixer.config.window, num_fading=0, num_eidetic=0, form="sliding",
        )  # fmt: skip
        rows.append(mixer.heads.output(mixed) + y[b])
    return jnp.stack(rows)


def test_the_sliding_form_is_its_oracle(dtype):
    mixer = law.make(CASES["sliding"], dtype)
    u = law.draw(dtype, 2, 27)
    got = law.run(mixer, u, None, DOCUMENTS)[0]
    assert_close(got, sliding_oracle(mixer, u, DOCUMENTS), dtype)


@pytest.mark.parametrize("case", ["bmojo", pytest.param("conv", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_gradients_are_those_of_the_reference(case):
    """Innovation is a constant to both: the choice of tokens carries no gradient."""
    with jax.enable_x64(True):
        mixer = law.make(CASES[case], jnp.dtype("float64"))
        graph, parameters = nnx.split(mixer, nnx.Param)
        u = law.draw(jnp.dtype("float64"), 1, 19)
        ids = jnp.asarray([[1] * 5 + [2] * 14], jnp.int32)

        def total(parameters, u, way):
            return jnp.sum(jnp.sin(way(nnx.merge(graph, parameters), u)))

        want = jax.grad(total, (0, 1))(parameters, u, lambda m, u: reference_of(m, u, ids))
        got = jax.grad(total, (0, 1))(parameters, u, lambda m, u: m(u, None, ids)[0])
        assert_close(got, want, "float64")


@pytest.mark.parametrize("refresh", ["chunk", "token"])
def test_the_reference_is_sequential_insertion(refresh):
    """Against a list that is kept by "replace the least surprising entry"."""
    with jax.enable_x64(True):
        config = dataclasses.replace(BASE, num_fading=1)
        mixer = law.make(config, jnp.dtype("float64"))
        u = law.draw(jnp.dtype("float64"), 1, 23)
        y, heads = mixer.fading(u)[0][0], mixer.heads
        new, faded = heads.key_values(u[0] + y), fading_key_values(mixer, y)
        document = [0] * 23
        score = reference.innovation(y, config.span, document)
        mixed = reference.memory_attention(
            heads.queries(u[0]), new.k, new.v, faded.k, faded.v, score, document,
            window=config.window, num_fading=1, num_eidetic=config.num_eidetic,
            form="chunked" if refresh == "chunk" else "token",
        )  # fmt: skip
        got = bmojo_reference(names(mixer), u[0], **options(config, refresh=refresh))
        assert_close(got, heads.output(mixed) + y, "float64")


def test_without_a_window_it_is_its_fading_cell(dtype):
    config = BMojoConfig(window=0, num_fading=0, num_eidetic=0, fading=CELL)
    mixer = law.make(config, dtype)
    u = law.draw(dtype, 2, 20)
    cell = law.make(CELL, dtype)
    assert type(mixer) is type(cell)
    np.testing.assert_array_equal(law.run(mixer, u, None)[0], law.run(cell, u, None)[0])


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
    assert np.asarray(state.eidetic.chosen.position[0, 0]).tolist() == best


def test_a_memory_of_bfloat16_keeps_its_states_in_float32():
    mixer = law.make(BASE, jnp.bfloat16)
    out, state = law.run(mixer, law.draw(jnp.bfloat16, 1, 15), None)
    assert out.dtype == jnp.bfloat16
    assert state.fading.hidden.dtype == jnp.float32
    assert state.eidetic.chosen.score.dtype == jnp.float32
