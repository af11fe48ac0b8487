"""Which entries are found, against comparison with all of them by a loop."""

import numpy as np
import pytest

from bmojo.storage import Policy
from bmojo.storage import search as search_module
from bmojo.storage.key_matrix import KeyMatrix
from bmojo.storage.search import merge, search
from tests.storage.made import along, axis, entries, part, queries, reader, writer


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
def test_order(tmp_path, blocks, nearest, limit):
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


def test_equal_scores_go_by_id(tmp_path, blocks):
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


@pytest.mark.parametrize("options, counts", FILTERS)
def test_filters(tmp_path, blocks, options, counts):
    stored, asked = entries(100), queries(1)[0]
    both = np.concatenate([stored.key, entries(100, 1).key])
    with writer(tmp_path / "s") as store:
        store.write(0, stored, "a")
        store.write(0, entries(100, 1), "b")
        store.publish()
        found = store.search(0, asked[None], nearest=2, limit=2, **options)
    for head in range(2):
        order = np.argsort(-both[:, head] @ asked[head])
        wanted = [i for i in order if counts("ab"[i // 100], i % 100)][:2]
        assert found.id[head].tolist() == (wanted + [-1, -1])[:2]


def matrix_of(keys):
    matrix = KeyMatrix(*keys.shape[1:], Policy())
    for start in range(0, len(keys), 999):
        part = keys[start : start + 999]
        ids = np.arange(start, start + len(part))
        facts = dict.fromkeys(("log_strength", "clock", "time", "position", "source"), 0)
        matrix.append(part, id=ids, innovation=1, **facts)
    return matrix


@pytest.mark.parametrize("size", [0, 1, 700, 30_000])
@pytest.mark.parametrize("biased", [False, True])
def test_all_of_the_best_are_found(blocks, size, biased):
    """Equality with brute force in float64, of keys whose norms differ much, and of equal keys."""
    rng = np.random.default_rng(size)
    keys = rng.standard_normal((size, 2, 8)) * np.exp(rng.standard_normal((size, 2, 1)))
    keys = keys.astype(np.float32)
    keys[size // 3 :][: size // 3] = keys[: size // 3]
    bias = -np.abs(rng.standard_normal(size)) * biased
    bias[size // 3 :][: size // 3] = bias[: size // 3]
    asked = rng.standard_normal((300, 2, 8)).astype(np.float32)
    found = search(matrix_of(keys), bias, asked, 8)
    for head in range(2):
        score = np.einsum("qp,np->qn", asked[:, head], keys[:, head], dtype=np.float64)
        rank = score + bias
        wanted = np.argsort(-rank, axis=1, kind="stable")[:, :8]
        count = wanted.shape[1]
        assert np.array_equal(found.place[head][:, :count], wanted)
        assert np.allclose(
            found.score[head][:, :count], np.take_along_axis(score, wanted, axis=1), rtol=1e-12
        )
        assert (found.place[head][:, count:] == -1).all()
        assert np.isneginf(found.rank[head][:, count:]).all()


def test_keys_that_differ_by_less_than_products_in_float32_can_tell(monkeypatch):
    """Scores of 1 + i * 2^-26 after cancellation: only a second look in float64 ranks them."""
    size = 2000
    key = np.zeros((size, 1, 3), np.float32)
    key[:, 0, 0], key[:, 0, 1] = 2.0**12, -(2.0**12)
    key[:, 0, 2] = np.random.default_rng(0).permutation(size) * 2.0**-26
    wanted = np.argsort(-key[:, 0, 2])[:8]
    for block, tile in ((8192, 1024), (64, 16)):
        monkeypatch.setattr(search_module, "BLOCK", block)
        monkeypatch.setattr(search_module, "TILE", (16, tile))
        found = search(matrix_of(key), np.zeros(size), np.ones((1, 1, 3), np.float32), 8)
        assert found.place[0, 0].tolist() == wanted.tolist()


def test_a_reopened_store_finds_the_same(tmp_path, blocks):
    norms = np.exp(0.5 * np.random.default_rng(5).standard_normal((4000, 1, 1)))
    stored, asked = entries(4000, key=entries(4000).key * norms), queries(64)
    with writer(tmp_path / "s") as store:
        for start in range(0, 4000, 500):
            store.write(0, part(stored, start, start + 500), "a")
            store.publish()
        first = store.search(0, asked, nearest=8, limit=512)
    with reader(tmp_path / "s") as store:
        again = store.search(0, asked, nearest=8, limit=512)
    for name in vars(first):
        assert np.array_equal(getattr(first, name), getattr(again, name))


def test_few_and_none(tmp_path):
    with writer(tmp_path / "s") as store:
        found = store.search(0, axis(), nearest=2, limit=3)
        assert found.count == 0 and (found.id == -1).all()
        store.write(0, along([1]), "a")
        found = store.search(0, axis(), nearest=2, limit=3)
        assert found.count == 1 and found.id[0].tolist() == [0, -1, -1]
        assert found.strength[0].tolist() == [1, 0, 0]


def test_best_of_many_equal_ones():
    score = np.random.default_rng(0).integers(0, 50, 3000)
    key = np.zeros((3000, 1, 2), np.float32)
    key[:, 0, 0] = score
    matrix = matrix_of(key)
    for count in (1, 7, 40):
        found = search(matrix, np.zeros(3000), np.eye(2, dtype=np.float32)[:1, None], count)
        assert found.place[0, 0].tolist() == np.lexsort((np.arange(3000), -score))[:count].tolist()


def test_merge_puts_every_best_first():
    ids = np.array([[4, 5], [4, 6], [7, 8]])
    ranked = np.array([[9.0, 8.0], [3.0, 2.0], [1.0, -np.inf]], np.float32)
    assert ids.reshape(-1)[merge(ids, ranked)].tolist() == [4, 7, 5, 6]
    assert ids.reshape(-1)[merge(ids, ranked)[:2]].tolist() == [4, 7]
