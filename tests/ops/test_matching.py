"""Matched entries: parallel, in calls of any size, and token by token, against the oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.ops import reference
from bmojo.ops.matching import Matches, Ngram, NgramIndex, match
from bmojo.ops.positions import Positions, advance

ROWS = 2


def draw(length, vocab, documents, seed=0):
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.integers(0, vocab, (ROWS, length)), jnp.int32)
    ids = np.cumsum(rng.random((ROWS, length)) < documents, axis=1)
    return tokens, jnp.asarray(ids, jnp.int32)


@functools.partial(jax.jit, static_argnames=("ngram", "ring", "chunk", "cap", "capacity"))
def step(index, positions, before, tokens, ids, lengths, ngram, ring, chunk, cap, capacity=None):
    """One call: positions of matches, and the state."""
    at, after = advance(positions, tokens.shape[1], ids, lengths)

    def appended(position):
        return position - position % chunk - ring

    back = at.segment_pos[:, :1] - jnp.arange(before.shape[1], 0, -1)
    matches, index = match(
        index, ngram, jnp.concatenate([before, tokens], axis=1), at.position,
        jnp.concatenate([back, at.segment_pos], axis=1),
        appended(at.position), *(appended(x.position - 1) for x in (positions, after)), capacity,
    )  # fmt: skip
    return matches, matches.newest(cap), index, after


def read(tokens, ids, cuts, ring, chunk, ngram, cap, capacity):
    """Matches by calls of some lengths, each row's padded by junk; all tokens are carried."""
    index, positions, found, first = (
        NgramIndex.empty(ROWS, capacity), Positions.zero(ROWS), [], 0,
    )  # fmt: skip
    tail = ring + chunk + ngram.n
    history = jnp.pad(tokens, [(0, 0), (tail, 0)], constant_values=3)
    for size in cuts:
        now, before = tokens[:, first : first + size], history[:, first : first + tail]
        lengths = jnp.full((ROWS,), size)
        junk = jnp.ones((ROWS, 0 if size == 1 else 3), jnp.int32)
        _, places, index, positions = step(
            index, positions, before, jnp.concatenate([now, junk], axis=1),
            jnp.concatenate([ids[:, first : first + size], junk * 99], axis=1), lengths,
            ngram, ring, chunk, cap,
        )  # fmt: skip
        found.append(places[:, :size])
        first += size
    return jnp.concatenate(found, axis=1)


def oracle(tokens, ids, ring, chunk, ngram, cap, capacity):
    at, _ = advance(Positions.zero(ROWS), tokens.shape[1], ids)
    return jnp.stack([
        reference.matched_entries(*row, ring, chunk, ngram.n, cap, capacity)
        for row in zip(tokens, at.segment_pos, strict=True)
    ])  # fmt: skip


CASES = [
    # vocabulary, documents, ring, chunk, n, cap, capacity
    (2, 0.0, 6, 4, 3, 5, 64),
    (2, 0.1, 6, 4, 3, 5, 64),
    (2, 0.1, 0, 1, 1, 64, 64),
    (3, 0.05, 3, 7, 2, 2, 9),
    (1, 0.0, 5, 4, 4, 7, 16),
    (1, 0.1, 1, 3, 2, 1, 3),
    (70000, 0.1, 2, 2, 2, 3, 64),
]


@pytest.mark.parametrize("vocab, documents, ring, chunk, n, cap, capacity", CASES)
def test_every_form_reads_what_the_oracle_reads(vocab, documents, ring, chunk, n, cap, capacity):
    length, ngram = 62, Ngram(n, vocab)
    tokens, ids = draw(length, vocab, documents)
    if vocab > length:
        tokens = 65536 * (tokens % 3) + tokens % 2
    args = (ring, chunk, ngram, cap, capacity)
    expected = oracle(tokens, ids, *args)
    assert (expected >= 0).any()
    nothing = jnp.zeros((ROWS, 0), jnp.int32)
    whole = step(
        NgramIndex.empty(ROWS), Positions.zero(ROWS), nothing, tokens, ids, None,
        ngram, ring, chunk, cap, capacity,
    )  # fmt: skip
    np.testing.assert_array_equal(whole[1], expected)
    for cuts in ((20, 1, 1, 20, 20), (1,) * 62):
        np.testing.assert_array_equal(read(tokens, ids, cuts, *args), expected)


def test_rows_of_other_lengths_go_on_where_they_are():
    ngram, ring, chunk, cap, capacity = Ngram(2, 2), 2, 3, 4, 20
    tokens, ids = draw(40, 2, 0.0, seed=3)
    args = (ngram, ring, chunk, cap)
    tail = ring + chunk + ngram.n
    lengths, total = jnp.array([9, 14]), jnp.array([14, 24])
    before = jnp.zeros((ROWS, tail), jnp.int32)
    start = (NgramIndex.empty(ROWS, capacity), Positions.zero(ROWS), before)
    _, _, index, positions = step(*start, tokens[:, :20], ids[:, :20], lengths, *args)
    rest = jnp.stack([jnp.roll(row, -int(n))[:10] for row, n in zip(tokens, lengths, strict=True)])
    history = jnp.pad(tokens, [(0, 0), (tail, 0)])
    before = jnp.stack(
        [row[int(n) : int(n) + tail] for row, n in zip(history, lengths, strict=True)]
    )
    _, found, _, _ = step(index, positions, before, rest, None, total - lengths, *args)
    expected = oracle(tokens, ids, ring, chunk, ngram, cap, capacity)
    for row in range(ROWS):
        there = slice(int(lengths[row]), int(total[row]))
        size = int(total[row] - lengths[row])
        np.testing.assert_array_equal(found[row, :size], expected[row, there])


def test_a_part_is_a_block_of_queries():
    tokens, ids = draw(30, 2, 0.0)
    start = (NgramIndex.empty(ROWS), Positions.zero(ROWS), jnp.zeros((ROWS, 0), jnp.int32))
    matches, whole, _, _ = step(*start, tokens, ids, None, Ngram(3, 2), 2, 2, 5)
    assert isinstance(matches, Matches)
    np.testing.assert_array_equal(matches.part(jnp.array(7), 11).newest(5), whole[:, 7:18])


@pytest.mark.parametrize(
    "n, vocab, exact",
    [(4, 65536, True), (5, 65536, False), (8, 256, True), (9, 256, False), (2, 2**31, True),
     (3, 2**17, False), (64, 2, True), (1, 1, True)],
)  # fmt: skip
def test_keys_are_the_ngrams(n, vocab, exact):
    ngram = Ngram(n, vocab)
    assert ngram.exact is exact
    rng = np.random.default_rng(0)
    tokens = vocab - 1 - jnp.asarray(rng.integers(0, min(vocab, 3), (2, 300)), jnp.int32)
    tokens = tokens.at[1].set(tokens[0, ::-1] // 2)
    keys = ngram.keys(tokens)[:, :, n - 1 :]
    grams = [tuple(row[i - n + 1 : i + 1]) for row in tokens.tolist() for i in range(n - 1, 300)]
    pairs = {(gram, *key) for gram, key in zip(grams, keys.reshape(2, -1).T.tolist(), strict=True)}
    assert len(pairs) == len(set(grams)) == len({key for _, *key in pairs for key in [tuple(key)]})


def test_a_bad_ngram_is_refused():
    with pytest.raises(ValueError, match="n: must be at least 1"):
        Ngram(0, 256)
