"""An entry counts if the tokens around found the entries around it."""

import numpy as np
import pytest

from bmojo.storage import Alignment, Entries, Identity, Store

WIDTH, LENGTH = 6, 40


def by_hand(agree, position, source):
    """For each token, counted anew: how many of the last 2 * agree found the same line."""

    def line(t):
        return [(s, p - t) for s, p in zip(source[t], position[t], strict=True)]

    def count(pair, t):
        return sum(pair in line(other) for other in range(max(0, t + 1 - 2 * agree), t + 1))

    return np.array([[count(pair, t) >= agree for pair in line(t)] for t in range(len(position))])


def drawn(count=60, candidates=4, seed=0):
    rng = np.random.default_rng(seed)
    position = np.arange(count)[:, None] + rng.integers(-3, 4, (count, candidates))
    return position, rng.integers(0, 2, (count, candidates))


@pytest.mark.parametrize("agree", [1, 2, 3, 5])
def test_lines_are_those_that_enough_tokens_found(agree):
    position, source = drawn()
    there = np.ones(position.shape, bool)
    got = Alignment(agree).vote(0, source, position, there)
    want = by_hand(agree, position, source)
    assert (got == want).all() and (agree == 1 or 0 < want.mean() < 1)


def test_parts_are_the_whole_and_nobody_votes_twice():
    position, source = drawn()
    there = np.ones(position.shape, bool)
    whole = Alignment(3).vote(0, source, position, there)
    parts, alignment = [], Alignment(3)
    for first, last in ((0, 1), (1, 17), (17, 60)):
        part = slice(first, last)
        parts.append(alignment.vote(first, source[part], position[part], there[part]))
    assert (np.concatenate(parts) == whole).all()
    alignment.vote(50, source[50:], position[50:], there[50:])
    again = alignment.vote(59, source[59:], position[59:], there[59:])
    assert (again == whole[59:]).all()


def test_what_is_not_there_does_not_vote():
    position, source = np.arange(5)[:, None], np.zeros((5, 1), np.int64)
    there = np.array([[True], [True], [False], [True], [True]])
    got = Alignment(3).vote(0, source, position, there)
    assert got[:, 0].tolist() == [False, False, False, True, True]


def test_an_alignment_of_no_token_is_refused():
    with pytest.raises(ValueError, match="^agree: must be at least 1, got 0"):
        Alignment(0)


@pytest.fixture
def read_before(tmp_path, blocks):
    """A store with a text whose keys are unlike each other, and their order."""
    keys = np.random.default_rng(0).normal(size=(LENGTH, 1, WIDTH)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    places = np.arange(LENGTH)
    identity = Identity("aa", "", 1, WIDTH, (1,))
    with Store.open(tmp_path / "s", identity, write=True) as store:
        store.write(
            1, Entries(keys, keys, np.ones(LENGTH), places, places, places[:, None]), "text"
        )
        store.publish()
        yield store, keys[:, None]


def test_a_text_read_again_is_found_and_a_shuffled_one_is_not(read_before):
    store, queries = read_before
    order = {number: place for place, (number, _) in enumerate(store.records.contexts())}
    again = store.assign(1, queries, nearest=1, alignment=Alignment(4), first=7)
    assert [order.get(n) for n in again.id[0]] == [None] * 3 + list(range(3, LENGTH))
    mixed = queries[np.random.default_rng(1).permutation(LENGTH)]
    chance = store.assign(1, mixed, nearest=1, alignment=Alignment(6), first=7)
    assert (chance.id < 0).all() and (store.assign(1, mixed, nearest=1).id >= 0).all()
