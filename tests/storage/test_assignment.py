"""Tokens take entries in turn: nobody waits for a later one, and nothing is taken twice."""

import numpy as np
import pytest

from bmojo.storage import Entries, Identity, Store
from bmojo.storage.assignment import take

HEADS, GROUP, WIDTH = 2, 3, 4


def entries(count, seed=0):
    key, value = np.random.default_rng(seed).normal(size=(2, count, HEADS, WIDTH))
    places = np.arange(count)
    return Entries(key, value, np.ones(count), places, places, places[:, None])


@pytest.fixture
def store(tmp_path, blocks):
    identity = Identity("aa", "", HEADS, WIDTH, (1,))
    with Store.open(tmp_path / "s", identity, write=True) as made:
        made.write(1, entries(60), "text")
        made.publish()
        yield made


def queries(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, HEADS, GROUP, WIDTH)).astype(np.float32)


def by_hand(written, q, nearest):
    """Every token in turn takes the best of what is left, by comparison with everything."""
    chosen = np.full((HEADS, len(q) * nearest), -1)
    for head in range(HEADS):
        left = list(range(len(written.key)))
        for token in range(len(q)):
            score = (written.key[:, head] @ q[token, head].T).max(axis=1)
            for slot in range(nearest):
                best = max(left, key=lambda i: score[i])
                left.remove(best)
                chosen[head, token * nearest + slot] = best
    return chosen


@pytest.mark.parametrize("nearest", [1, 2])
def test_each_takes_the_best_that_is_left(store, nearest):
    q, written = queries(5), entries(60)
    found = store.assign(1, q, nearest=nearest)
    ids = store.assign(1, q, nearest=nearest).id
    assert (ids == found.id).all()
    order = np.array([number for number, _ in store.records.contexts()])
    want = by_hand(written, q, nearest)
    assert (found.id == order[want]).all()
    for head in range(HEADS):
        assert (found.key[head] == written.key[want[head], head]).all()
        assert (found.value[head] == written.value[want[head], head]).all()


def test_later_tokens_do_not_matter(store):
    q = queries(6)
    whole = store.assign(1, q, nearest=2).id
    first = store.assign(1, q[:2], nearest=2).id
    rest = store.assign(1, q[2:], nearest=2, taken=first).id
    assert (whole == np.concatenate([first, rest], axis=1)).all()


def test_what_is_not_there_is_vacant(tmp_path):
    identity = Identity("aa", "", HEADS, WIDTH, (1,))
    with Store.open(tmp_path / "s", identity, write=True) as store:
        empty = store.assign(1, queries(2), nearest=2)
        assert (empty.id == -1).all() and not empty.key.any()
        store.write(1, entries(3), "text")
        few = store.assign(1, queries(2), nearest=2)
        assert ((few.id >= 0).sum(axis=1) == 3).all()
        assert (few.id[:, 3] == -1).all() and not few.value[:, 3].any()


def test_take():
    place = np.array([[3, 1, 2], [3, 1, 2], [3, 2, 1]])
    rank = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, -np.inf], [3.0, 2.0, 1.0]])

    def taken(nearest, before):
        return take(place, rank, nearest, np.array(before)).tolist()

    assert taken(1, []) == [[3], [1], [2]]
    assert taken(1, [3]) == [[1], [-1], [2]]
    assert taken(2, []) == [[3, 1], [-1, -1], [2, -1]]
