"""Attention over window and slots, forward and one step, against the library and the oracle."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import masks as ops
from bmojo.ops import reference
from neuron.checks import attention as checks
from neuron.checks.attention import Size
from neuron.checks.check import distance, run, time_last
from neuron.kernels.attention import memory_attention
from neuron.kernels.eidetic import running_sets
from neuron.kernels.visibility import query_tiles

SMALL = Size(2, 21, 4, 2, 8, 8, slots=5, before=7, documents=2)


def good(results):
    assert all(result.good for result in results), results


@pytest.mark.parametrize("size", [checks.GRID[0], checks.GRID[5], SMALL], ids=str)
def test_agrees_with_the_op(size):
    good(checks.check_forward(size))


@pytest.mark.parametrize("programs", [None, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_programs_share_rows_or_heads(batch, programs):
    size = dataclasses.replace(SMALL, batch=batch)
    one = checks.forward(checks.problem(size))
    two = checks.forward(checks.problem(dataclasses.replace(size, programs=programs)))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


def test_logarithms_are_of_the_sum_of_exponentials():
    p = checks.problem(Size(1, 6, 1, 1, 4, 8))
    _, lse = checks.forward(p)
    q, k = (p.arrays[n][0, :, 0].astype(np.float64) for n in ("q", "k"))
    scores = np.where(np.tri(6, dtype=bool), q @ k.T / 2, -np.inf)
    assert distance(lse[0, :, 0], np.log(np.exp(scores).sum(axis=1))) < 1e-6


def test_bfloat16():
    good(checks.check_forward(dataclasses.replace(SMALL, dtype="bfloat16")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_huge_scores_do_not_overflow(dtype):
    p = checks.problem(dataclasses.replace(SMALL, dtype=dtype, gain=3000.0))
    out, lse = checks.forward(p)
    assert np.isfinite(np.asarray(out, np.float32)).all() and np.isfinite(lse).all()


def test_a_slot_beyond_the_document_is_not_seen():
    p = checks.problem(Size(1, 20, 1, 1, 8, 4, slots=2, documents=2))
    before, _ = checks.forward(p)
    reach = p.segment_pos[0, ::4]
    hidden = p.distance[0] > reach[:, None]
    p.arrays["slot_k"][0, hidden] = 1e3
    p.arrays["slot_v"][0, hidden] = 1e3
    assert hidden.any()
    np.testing.assert_array_equal(checks.forward(p)[0], before)


def test_without_ages_no_document_ends():
    p = checks.problem(dataclasses.replace(SMALL, documents=0, before=40))
    operands, options = p.operands()
    with_positions, _ = run(memory_attention, *operands, 8, **options)
    p.distance[p.distance != ops.NEVER] %= 40
    options |= {"distance": np.maximum(p.distance, 1)}
    with_positions, _ = run(memory_attention, *operands, 8, **options)
    del options["segment_pos"]
    np.testing.assert_array_equal(run(memory_attention, *operands, 8, **options)[0], with_positions)


@pytest.mark.parametrize("starts", [pytest.param((), marks=pytest.mark.slow), (3, 9, 10)])
def test_selection_and_attention_are_the_layer(starts):
    length, window, fading, eidetic = 18, 4, 2, 3
    rng = np.random.default_rng(0)
    q, k, v, faded_k, faded_v = rng.standard_normal((5, length, 2, 8)).astype(np.float32)
    score = rng.random((1, length)).astype(np.float32)
    start = np.isin(np.arange(length), starts)
    document = np.cumsum(start)
    segment_pos = np.arange(length) - np.maximum.accumulate(np.where(start, np.arange(length), 0))

    vacant = np.full((1, eidetic), -1, np.float32)
    sets = run(running_sets, score, vacant, window, start[None].astype(np.float32))
    edge = np.arange(0, length, window)
    token = np.concatenate([np.zeros((1, eidetic), int), sets[1][0, :-1] - eidetic])
    held = np.concatenate([vacant, sets[0][0, :-1]]) >= 0
    token = np.where(held, token, 0)
    last = edge[:, None] + np.arange(-fading, 0)
    slot_k, slot_v = (
        np.concatenate([fade[last], own[token]], axis=1)[None]
        for fade, own in ((faded_k, k), (faded_v, v))
    )
    far = np.concatenate(
        [edge[:, None] - last, np.where(held, edge[:, None] - token, ops.NEVER)], 1
    )
    out, _ = run(
        memory_attention,
        time_last(q[None]),
        time_last(k[None]),
        v[None],
        window,
        segment_pos=segment_pos[None].astype(np.int32),
        slot_k=np.moveaxis(slot_k, 2, -1).copy(),
        slot_v=slot_v,
        distance=far[None].astype(np.int32),
    )
    wanted = reference.memory_attention(
        *(jnp.asarray(x) for x in (q, k, v, faded_k, faded_v)),
        score[0].tolist(),
        document.tolist(),
        window=window,
        num_fading=fading,
        num_eidetic=eidetic,
    )
    assert distance(out[0], wanted) < 1e-5


def test_tiles_are_cut_at_chunk_edges():
    assert query_tiles(300, 130) == [
        (0, 0, 128), (0, 128, 130), (1, 130, 258), (1, 258, 260), (2, 260, 300),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "size",
    [Size(3, 5, 2, 1, 8, 4, slots=3, before=2, documents=1), Size(2, 3, 2, 2, 8, 2, programs=2)],
    ids=str,
)
def test_step_agrees_with_the_op(size):
    good(checks.check_step(size))
