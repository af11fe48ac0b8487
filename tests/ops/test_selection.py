"""Sets from the scan over chunks are those that sequential insertion keeps."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from bmojo.ops.selection import EMPTY, running_sets


def insertion(score, starts, size, offset, chunk, before=()):
    """Sets (as position lists, best first) at chunk edges and after the last token."""
    kept, edges = list(before), []
    for t, value in enumerate(score):
        if starts[t]:
            kept = []
        kept.append((-value, t))
        kept = sorted(kept)[:size]
        if (t + 1 + offset) % chunk == 0:
            edges.append([p for _, p in kept])
    return edges, [p for _, p in kept]


def positions(ranked, size):
    score, source = np.asarray(ranked.score), np.asarray(ranked.source)
    return [p - size for s, p in zip(score, source, strict=True) if s != EMPTY]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    scores=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    starts=st.sets(st.integers(0, 39), max_size=3),
    size=st.integers(1, 6),
    chunk=st.integers(1, 9),
    offset=st.integers(0, 8),
    grid=st.booleans(),
)
def test_running_sets_are_sequential_insertion_with_ties(scores, starts, size, chunk, offset, grid):
    offset = offset % chunk if grid else 0
    length = len(scores)
    begin = np.array([t in starts for t in range(length)])
    edges, final = running_sets(
        jnp.asarray(scores, jnp.float32)[None],
        jnp.full((1, size), EMPTY),
        chunk,
        jnp.array([offset], jnp.int32) if grid else None,
        jnp.asarray(begin)[None],
    )
    want_edges, want = insertion(scores, begin, size, offset, chunk)
    assert positions(jax.tree.map(lambda x: x[0], final), size) == want
    for j, expected in enumerate(want_edges):
        got = positions(jax.tree.map(lambda x, j=j: x[0, j], edges), size)
        assert got == expected


def test_the_scan_is_independent_of_where_it_is_cut():
    rng = np.random.default_rng(0)
    score = jnp.asarray(rng.integers(0, 5, (3, 50)), jnp.float32)
    empty = jnp.full((3, 4), EMPTY)
    _, whole = running_sets(score, empty, 8)
    _, first = running_sets(score[:, :21], empty, 8)
    _, second = running_sets(score[:, 21:], first.score, 8, jnp.full((3,), 21 % 8, jnp.int32))
    np.testing.assert_array_equal(whole.score, second.score)
    before = np.take_along_axis(np.asarray(first.source), np.minimum(second.source, 3), axis=1)
    source = np.where(np.asarray(second.source) < 4, before, np.asarray(second.source) + 21)
    np.testing.assert_array_equal(whole.source, source)


def test_padding_is_never_kept():
    score = jnp.asarray([[1.0, 2.0, 9.0, 9.0]])
    valid = jnp.asarray([[True, True, False, False]])
    edges, final = running_sets(score, jnp.full((1, 3), EMPTY), 2, valid=valid)
    assert positions(jax.tree.map(lambda x: x[0], final), 3) == [1, 0]
    assert positions(jax.tree.map(lambda x: x[0, 1], edges), 3) == [1, 0]
