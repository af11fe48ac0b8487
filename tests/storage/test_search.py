"""Which entries are found, against comparison with all of them by a loop."""

import numpy as np
import pytest

from bmojo.storage.search import best_columns, merge
from tests.storage.made import along, axis, entries, queries, reader, writer


def ranked_by_loop(keys, query, nearest):
    scores = keys @ query
    return sorted(range(len(keys)), key=lambda i: (-scores[i], i))[:nearest]


def merged_by_loop(keys, head_queries, nearest, limit):
    """Ids in the order of the definition, for one head."""
    lists = [ranked_by_loop(keys, query, nearest) for query in head_queries]
    result = []
    for rank in range(nearest):
        at = [(-keys[ids[rank]] @ q, ids[rank]) for ids, q in zip(lists, head_queries, strict=True)]
        result += [number for _, number in sorted(at) if number not in result]
        # A number may come twice in a rank.
        result = list(dict.fromkeys(result))
    return result[:limit]


@pytest.mark.parametrize("nearest, limit", [(1, 4), (3, 16), (3, 5)])
def test_order(tmp_path, nearest, limit):
    stored, asked = entries(300), queries(6)
    with writer(tmp_path / "s") as store:
        store.write(2, stored, "a")
        found = store.search(2, asked, nearest=nearest, limit=limit)
    for head in range(2):
        wanted = merged_by_loop(stored.key[:, head], asked[:, head], nearest, limit)
        count = len(wanted)
        assert found.id[head, :count].tolist() == wanted
        assert (found.id[head, count:] == -1).all()
        assert np.array_equal(found.key[head, :count], stored.key[wanted, head])
        assert np.array_equal(found.value[head, :count], stored.value[wanted, head])
        assert np.isneginf(found.score[head, count:]).all()
    assert found.count == max((found.id[head] >= 0).sum() for head in range(2))


def test_layers_and_heads_are_apart(tmp_path):
    with writer(tmp_path / "s") as store:
        store.write(0, along([1, 2, 3]), "a")
        key = along([5, 1]).key.copy()
        key[:, 1] *= -1
        store.write(2, along([0, 0]).__class__(**{**vars(along([0, 0])), "key": key}), "a")
        found = store.search(2, axis(), nearest=2, limit=2)
        assert found.id.tolist() == [[3, 4], [4, 3]]
        assert store.search(0, axis(), nearest=1, limit=1).id.tolist() == [[2], [2]]
        with pytest.raises(ValueError, match="layer: 1 has no entries"):
            store.search(1, axis(), nearest=1, limit=1)


def test_equal_scores_go_by_id(tmp_path):
    with writer(tmp_path / "s") as store:
        store.write(0, along([1] * 200 + [2] * 3), "a")
        found = store.search(0, axis(), nearest=6, limit=6)
        assert found.id[0].tolist() == [200, 201, 202, 0, 1, 2]


FILTERS = [
    ({}, lambda source, position: True),
    ({"source": "b"}, lambda source, position: source == "b"),
    ({"exclude_source": "b"}, lambda source, position: source != "b"),
    ({"exclude_after_position": 9}, lambda source, position: position <= 9),
    (
        {"exclude_source": "b", "exclude_after_position": 9},
        lambda source, position: source != "b" or position <= 9,
    ),
    ({"source": "nobody"}, lambda source, position: False),
]


@pytest.mark.parametrize("exact_below", [64, 1000])
@pytest.mark.parametrize("options, counts", FILTERS)
def test_filters(tmp_path, exact_below, options, counts):
    stored, asked = entries(100), queries(1)[0]
    both = np.concatenate([stored.key, entries(100, 1).key])
    with writer(tmp_path / "s", exact_below=exact_below) as store:
        store.write(0, stored, "a")
        store.write(0, entries(100, 1), "b")
        store.publish()
        assert store.records.stats()["layers"][0]["indexed"] == (200 if exact_below == 64 else 0)
        found = store.search(0, asked[None], nearest=2, limit=2, **options)
    for head in range(2):
        order = np.argsort(-both[:, head] @ asked[head])
        wanted = [i for i in order if counts("ab"[i // 100], i % 100)][:2]
        assert found.id[head].tolist() == (wanted + [-1, -1])[:2]


def test_an_index_finds_what_comparison_finds(tmp_path):
    norms = np.exp(0.5 * np.random.default_rng(5).standard_normal((4000, 1, 1)))
    stored, asked = entries(4000, key=entries(4000).key * norms), queries(64)
    with writer(tmp_path / "s", exact_below=1000) as store:
        for start in range(0, 4000, 500):
            store.write(0, stored.part(start, start + 500), "a")
            store.publish()
        assert store.records.stats()["layers"][0]["indexed"] > 2000
        approximate = store.search(0, asked, nearest=8, limit=512)
    with reader(tmp_path / "s", exact_below=10**6) as store:
        rows = store.search(0, asked, nearest=8, limit=512)
    with writer(tmp_path / "t", exact_below=10**6) as store:
        store.write(0, stored, "a")
        exact = store.search(0, asked, nearest=8, limit=512)
    for head in range(2):
        wanted = set(exact.id[head]) - {-1}
        assert len(wanted & set(approximate.id[head])) > 0.97 * len(wanted)
    assert np.array_equal(rows.id, approximate.id)


def test_few_and_none(tmp_path):
    with writer(tmp_path / "s") as store:
        found = store.search(0, axis(), nearest=2, limit=3)
        assert found.count == 0 and (found.id == -1).all()
        store.write(0, along([1]), "a")
        found = store.search(0, axis(), nearest=2, limit=3)
        assert found.count == 1 and found.id[0].tolist() == [0, -1, -1]
        assert found.strength[0].tolist() == [1, 0, 0]


def test_best_columns_of_many():
    scores = np.random.default_rng(0).integers(0, 50, (5, 3000)).astype(np.float32)
    scores[3] = -np.inf
    for count in (1, 7, 40):
        wanted = np.stack([np.lexsort((np.arange(3000), -row))[:count] for row in scores])
        assert np.array_equal(best_columns(scores, count), wanted)


def test_merge_puts_every_best_first():
    ids = np.array([[4, 5], [4, 6], [7, 8]])
    ranked = np.array([[9.0, 8.0], [3.0, 2.0], [1.0, -np.inf]], np.float32)
    assert ids.reshape(-1)[merge(ids, ranked, 10)].tolist() == [4, 7, 5, 6]
    assert ids.reshape(-1)[merge(ids, ranked, 2)].tolist() == [4, 7]
