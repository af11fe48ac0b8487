"""Decay, reinforcement, capacity, compaction."""

import math

import numpy as np
import pytest

from bmojo.storage import Policy
from bmojo.storage import store as store_module
from tests.storage.made import along, axis, entries, queries, reader, search, strength, writer


def best(store):
    return search(store, axis(), 3)


@pytest.mark.parametrize("of", ["tokens", "seconds"])
def test_half_life(tmp_path, of, clock, blocks):
    """An entry of score 5 is as good as one of 5 - 2 ln 2 that is younger by two half-lives."""
    policy = Policy(**{f"half_life_{of}": 10.0})
    with writer(tmp_path / "s", policy=policy) as store:
        store.write(0, along([5] + [0] * 20), "a")
        store.publish()
        if of == "tokens":
            store.advance(20)
        else:
            clock(20)
        younger = 5 - 2 * math.log(2)
        store.write(0, along([younger - 0.01]), "a")
        assert strength(store, [0, 21]) == pytest.approx([0.25, 1])
        found = best(store)
        assert found.id[0, :2].tolist() == [0, 21]
        assert found.key[0, :2, 0] == pytest.approx([5, younger - 0.01])
        store.write(0, along([younger + 0.01]), "a")
        assert best(store).id[0].tolist() == [22, 0, 21]


def test_the_newer_of_equal_ones(tmp_path):
    with writer(tmp_path / "s", policy=Policy(half_life_tokens=100)) as store:
        for _ in range(3):
            store.write(0, along([1]), "a")
            store.advance(1)
        assert best(store).id[0].tolist() == [2, 1, 0]


def test_reinforcement(tmp_path, clock, blocks):
    policy = Policy(half_life_tokens=10, reinforcement=0.5)
    with writer(tmp_path / "s", policy=policy) as store:
        store.write(0, along([3, 2] + [0] * 20), "a")
        store.advance(10)
        store.publish()
        assert strength(store, [0]).tolist() == [0.5]
        search(store, axis(), 1)
        store.advance(10)
        assert strength(store, [0, 1]) == pytest.approx([(0.5 + 0.5) / 2, 0.25])
        assert search(store, axis(), 2).id[0].tolist() == [0, 1]
    with reader(tmp_path / "s") as store:
        left = [(0.5 + 0.5) / 2 + 0.5, 0.25 + 0.5]
        for _ in range(2):  # a reader reinforces nothing
            assert strength(store, best(store).id[0, :2]) == pytest.approx(left)
        record = store.records[0]
        assert (record.uses, record.used) == (2, 0.0)
        assert record.strength == pytest.approx(left[0])


def test_a_reader_follows_reinforcement(tmp_path, clock):
    with writer(tmp_path / "s", policy=Policy(reinforcement=1.0)) as store:
        store.write(0, along([1, 1]), "a")
        store.publish()
        with reader(tmp_path / "s") as other:
            assert strength(other, best(other).id[0, :2]).tolist() == [1, 1]
            search(store, axis(), 1)
            store.publish()
            assert strength(other, best(other).id[0, :2]).tolist() == [2, 1]


def test_many_retrievals_are_written_before_publication(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(store_module, "TOUCHES", 2)
    with writer(tmp_path / "s", policy=Policy(reinforcement=1.0)) as store:
        store.write(0, along([1, 1]), "a")
        store.publish()
        with reader(tmp_path / "s") as other:
            assert store.records[0].uses == 0
            best(store)
            assert store.records[0].uses == 1
            assert strength(other, best(other).id[0, :2]).tolist() == [1, 1]
            store.publish()
            assert strength(other, best(other).id[0, :2]).tolist() == [2, 2]


def test_capacity(tmp_path):
    policy = Policy(capacity=10, half_life_tokens=100)
    with writer(tmp_path / "s", policy=policy) as store:
        for number in range(3):
            store.write(0, entries(5, first=5 * number), "a")
            store.advance(1)
        store.write(2, entries(7), "a")
        store.publish()
        assert (store.count(0), store.count(2)) == (10, 7)
        kept = [store.records[number] for number in store.records.select()]
        assert [r.position for r in kept if r.layer == 0] == [*range(5, 15)]
        store.write(0, entries(1000, 1), "b")
        assert store.count(0) <= 10 + 256
        store.publish()
        assert store.count(0) == 10
    with reader(tmp_path / "s") as store:
        assert (store.count(0), store.count(2)) == (10, 7)


def test_of_equally_strong_entries_the_least_surprising_go(tmp_path):
    innovation = np.array([0.5, 0.1, 0.9, 0.1, 0.7])
    with writer(tmp_path / "s", policy=Policy(capacity=3)) as store:
        store.write(0, entries(5, innovation=innovation), "a")
        store.publish()
        assert store.records.select() == [0, 2, 4]
    with writer(tmp_path / "s", policy=Policy(capacity=4)) as store:
        store.write(0, entries(2, innovation=[0.1, 0.1]), "a")
        store.publish()
        assert store.records.select() == [0, 2, 4, 6]


def test_compaction(tmp_path):
    policy = Policy(half_life_tokens=10, floor=2**-3)
    with writer(tmp_path / "s", policy=policy) as store:
        store.write(0, entries(500), "old")
        store.advance(15)
        store.write(0, entries(400, 1, 500), "new")
        store.publish()
        store.advance(16)
        asked = queries(4)
        before = store.records.stats()["bytes"]
        assert store.compact() == 500
        assert store.records.stats()["bytes"] < 0.6 * before
        found = search(store, asked, 2)
        assert found.id[found.id >= 0].min() >= 500
        facts = store.records.stats()
        assert facts["sources"] == {"new": 400} and facts["layers"][0]["entries"] == 400
        store.write(0, entries(1), "new")
        assert search(store, asked[:1], 401).id.max() == 900
    with reader(tmp_path / "s") as store:
        assert store.count(0) == 401


def test_forgotten_entries_are_not_found(tmp_path, blocks):
    with writer(tmp_path / "s") as store:
        store.write(0, entries(400), "a")
        store.publish()
        before = search(store, queries(4), 1)
        gone = before.id[before.id >= 0]
        assert store.forget(gone.tolist()) == len(np.unique(gone))
        assert not np.isin(search(store, queries(4), 4).id, gone).any()
        assert store.forget(range(200)) and store.count(0) <= 200
        store.publish()
        assert store.records.stats()["layers"][0]["entries"] == store.count(0)
        assert search(store, queries(4), 4).id.max() >= 200
        store.forget(range(400))
        store.publish()
        assert store.records.stats()["layers"][0]["entries"] == 0
        assert (search(store, queries(4), 1).id == -1).all()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"capacity": 0}, "Policy.capacity: 0 is not positive"),
        ({"capacity": 1.5}, "Policy.capacity: 1.5 is not an integer or None"),
        ({"half_life_tokens": -1.0}, "Policy.half_life_tokens: -1.0 is not positive"),
        (
            {"half_life_seconds": math.inf},
            "Policy.half_life_seconds: it is not a number of at most",
        ),
        ({"reinforcement": -0.1}, "Policy.reinforcement: -0.1 is negative"),
        ({"floor": "a"}, "Policy.floor: 'a' is not a number"),
    ],
)
def test_bad_policies(fields, message):
    with pytest.raises(ValueError, match=message):
        Policy(**fields)
