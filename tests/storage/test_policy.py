"""Decay, reinforcement, capacity, compaction."""

import math

import numpy as np
import pytest

from bmojo.storage import Policy
from bmojo.storage import store as store_module
from tests.storage.made import along, axis, entries, queries, reader, writer


def best(store, **options):
    return store.search(0, axis(), nearest=3, limit=3, **{"now": 0.0} | options)


@pytest.mark.parametrize("clock", ["tokens", "seconds"])
def test_half_life(tmp_path, clock, blocks):
    """An entry of score 5 is as good as one of 5 - 2 ln 2 that is younger by two half-lives."""
    policy = Policy(**{f"half_life_{clock}": 10.0})
    with writer(tmp_path / "s", policy=policy) as store:
        store.write(0, along([5] + [0] * 20), "a", now=0.0)
        store.publish(now=0.0)
        now = 0.0
        if clock == "tokens":
            store.advance(20)
        else:
            now = 20.0
        younger = 5 - 2 * math.log(2)
        store.write(0, along([younger - 0.01]), "a", now=now)
        found = best(store, now=now)
        assert found.id[0, :2].tolist() == [0, 21]
        assert found.strength[0, :2] == pytest.approx([0.25, 1])
        assert found.score[0, :2] == pytest.approx([5, younger - 0.01])
        store.write(0, along([younger + 0.01]), "a", now=now)
        assert best(store, now=now).id[0].tolist() == [22, 0, 21]


def test_the_newer_of_equal_ones(tmp_path):
    with writer(tmp_path / "s", policy=Policy(half_life_tokens=100)) as store:
        for _ in range(3):
            store.write(0, along([1]), "a")
            store.advance(1)
        assert best(store).id[0].tolist() == [2, 1, 0]


def test_reinforcement(tmp_path, blocks):
    policy = Policy(half_life_tokens=10, reinforcement=0.5)
    with writer(tmp_path / "s", policy=policy) as store:
        store.write(0, along([3, 2] + [0] * 20), "a", now=0.0)
        store.advance(10)
        store.publish(now=0.0)
        first = store.search(0, axis(), nearest=1, limit=1, now=0.0)
        assert first.strength[0].tolist() == [0.5]
        store.advance(10)
        again = store.search(0, axis(), nearest=2, limit=2, now=0.0)
        assert again.id[0].tolist() == [0, 1]
        assert again.strength[0] == pytest.approx([(0.5 + 0.5) / 2, 0.25])
    with reader(tmp_path / "s") as store:
        strength = [(0.5 + 0.5) / 2 + 0.5, 0.25 + 0.5]
        for _ in range(2):  # a reader reinforces nothing
            assert best(store).strength[0, :2] == pytest.approx(strength)
        record = store.records[0]
        assert (record.uses, record.used) == (2, 0.0)
        assert record.strength == pytest.approx(strength[0])


def test_a_reader_follows_reinforcement(tmp_path):
    with writer(tmp_path / "s", policy=Policy(reinforcement=1.0)) as store:
        store.write(0, along([1, 1]), "a", now=0.0)
        store.publish(now=0.0)
        with reader(tmp_path / "s") as other:
            assert best(other).strength[0, :2].tolist() == [1, 1]
            store.search(0, axis(), nearest=1, limit=1, now=0.0)
            store.publish(now=0.0)
            assert best(other).strength[0, :2].tolist() == [2, 1]


def test_many_retrievals_are_written_before_publication(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "TOUCHES", 2)
    with writer(tmp_path / "s", policy=Policy(reinforcement=1.0)) as store:
        store.write(0, along([1, 1]), "a", now=0.0)
        store.publish(now=0.0)
        with reader(tmp_path / "s") as other:
            assert store.records[0].uses == 0
            best(store)
            assert store.records[0].uses == 1
            assert best(other).strength[0, :2].tolist() == [1, 1]
            store.publish(now=0.0)
            assert best(other).strength[0, :2].tolist() == [2, 2]


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


@pytest.mark.parametrize("synchronous", [True, False])
def test_compaction(tmp_path, synchronous):
    policy = Policy(half_life_tokens=10, floor=2**-3)
    with writer(tmp_path / "s", policy=policy, synchronous=synchronous) as store:
        store.write(0, entries(500), "old")
        store.advance(15)
        store.write(0, entries(400, 1, 500), "new")
        store.publish()
        store.advance(16)
        asked = queries(4)
        before = store.records.stats()["bytes"]
        assert store.compact() == 500
        assert store.records.stats()["bytes"] < 0.6 * before
        found = store.search(0, asked, nearest=2, limit=8)
        assert found.id[found.id >= 0].min() >= 500
        facts = store.records.stats()
        assert facts["sources"] == {"new": 400} and facts["layers"][0]["entries"] == 400
        store.write(0, entries(1), "new")
        assert store.search(0, asked, nearest=900, limit=900).id.max() == 900
    with reader(tmp_path / "s") as store:
        assert store.count(0) == 401


def test_forgotten_entries_are_not_found(tmp_path, blocks):
    with writer(tmp_path / "s") as store:
        store.write(0, entries(400), "a")
        store.publish()
        before = store.search(0, queries(4), nearest=1, limit=4)
        gone = before.id[before.id >= 0]
        assert store.forget(gone.tolist()) == len(np.unique(gone))
        assert not np.isin(store.search(0, queries(4), nearest=4, limit=99).id, gone).any()
        assert store.forget(range(200)) and store.count(0) <= 200
        store.publish()
        assert store.records.stats()["layers"][0]["entries"] == store.count(0)
        assert store.search(0, queries(4), nearest=4, limit=99).id.max() >= 200
        store.forget(range(400))
        store.publish()
        assert store.records.stats()["layers"][0]["entries"] == 0
        assert store.search(0, queries(4), nearest=1, limit=4).count == 0


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"capacity": 0}, "Policy.capacity: 0 is not positive"),
        ({"capacity": 1.5}, "Policy.capacity: 1.5 is not an integer or None"),
        ({"half_life_tokens": -1.0}, "Policy.half_life_tokens: -1.0 is not positive"),
        ({"half_life_seconds": math.inf}, "Policy.half_life_seconds: inf is not finite"),
        ({"reinforcement": -0.1}, "Policy.reinforcement: -0.1 is negative"),
        ({"floor": "a"}, "Policy.floor: 'a' is not a number"),
    ],
)
def test_bad_policies(fields, message):
    with pytest.raises(ValueError, match=message):
        Policy(**fields)
