"""Which entries are found, against comparison with all of them by a loop."""

import numpy as np
import pytest

from bmojo.storage import Policy
from bmojo.storage import search as search_module
from bmojo.storage.key_matrix import KeyMatrix
from bmojo.storage.search import search
from tests.storage.made import along, axis, entries, part, queries, reader, writer
from tests.storage.made import search as taken


def taken_by_loop(keys, head_queries, nearest):
    """Ids in the order of the definition, for one head."""
    left, result = list(range(len(keys))), []
    for query in head_queries:
        best = sorted(left, key=lambda i: (-(keys[i] @ query), i))[:nearest]
        left = [i for i in left if i not in best]
        result += best
    return result


@pytest.mark.parametrize("size, nearest", [(300, 1), (300, 3), (10, 3)])
def test_order(tmp_path, blocks, size, nearest):
    stored, asked = entries(size), queries(6)
    with writer(tmp_path / "s") as store:
        store.write(2, stored, "a")
        found = taken(store, asked, nearest, layer=2)
    for head in range(2):
        wanted = taken_by_loop(stored.key[:, head], asked[:, head], nearest)
        count = len(wanted)
        assert found.id[head, :count].tolist() == wanted
        assert (found.id[head, count:] == -1).all()
        assert np.array_equal(found.key[head, :count], stored.key[wanted, head])
        assert np.array_equal(found.value[head, :count], stored.value[wanted, head])
        assert not found.key[head, count:].any()
    assert found.id.shape == (2, 6 * nearest) and count == min(6 * nearest, size)


def test_layers_and_heads_are_apart(tmp_path):
    with writer(tmp_path / "s") as store:
        store.write(0, along([1, 2, 3]), "a")
        key = along([5, 1]).key.copy()
        key[:, 1] *= -1
        store.write(2, along([0, 0]).__class__(**{**vars(along([0, 0])), "key": key}), "a")
        found = taken(store, axis(), 2, layer=2)
        assert found.id.tolist() == [[3, 4], [4, 3]]
        assert taken(store, axis(), 1).id.tolist() == [[2], [2]]
        with pytest.raises(ValueError, match="layer: 1 has no entries"):
            taken(store, axis(), 1, layer=1)


def test_equal_scores_go_by_id(tmp_path, blocks):
    with writer(tmp_path / "s") as store:
        store.write(0, along([1] * 200 + [2] * 3), "a")
        found = taken(store, axis(), 6)
        assert found.id[0].tolist() == [200, 201, 202, 0, 1, 2]


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
@pytest.mark.one_in(3)
def test_all_of_the_best_are_found(blocks, size, biased):
    """Equality with brute force in float64, of keys whose norms differ much, and of equal keys."""
    rng = np.random.default_rng(size)
    keys = rng.standard_normal((size, 2, 8)) * np.exp(rng.standard_normal((size, 2, 1)))
    keys = keys.astype(np.float32)
    keys[size // 3 :][: size // 3] = keys[: size // 3]
    bias = -np.abs(rng.standard_normal(size)) * biased
    bias[size // 3 :][: size // 3] = bias[: size // 3]
    asked = rng.standard_normal((300, 2, 8)).astype(np.float32)
    place, ranks = search(matrix_of(keys), bias, asked, 8)
    for head in range(2):
        score = np.einsum("qp,np->qn", asked[:, head], keys[:, head], dtype=np.float64)
        rank = score + bias
        wanted = np.argsort(-rank, axis=1, kind="stable")[:, :8]
        count = wanted.shape[1]
        assert np.array_equal(place[head][:, :count], wanted)
        best = np.take_along_axis(rank, wanted, axis=1)
        assert np.allclose(ranks[head][:, :count], best, rtol=1e-12)
        assert (place[head][:, count:] == -1).all()
        assert np.isneginf(ranks[head][:, count:]).all()


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
        place, _ = search(matrix_of(key), np.zeros(size), np.ones((1, 1, 3), np.float32), 8)
        assert place[0, 0].tolist() == wanted.tolist()


def test_a_reopened_store_finds_the_same(tmp_path, blocks):
    norms = np.exp(0.5 * np.random.default_rng(5).standard_normal((4000, 1, 1)))
    stored, asked = entries(4000, key=entries(4000).key * norms), queries(64)
    with writer(tmp_path / "s") as store:
        for start in range(0, 4000, 500):
            store.write(0, part(stored, start, start + 500), "a")
            store.publish()
        first = taken(store, asked, 8)
    with reader(tmp_path / "s") as store:
        again = taken(store, asked, 8)
    for name in vars(first):
        assert np.array_equal(getattr(first, name), getattr(again, name))


def test_few_and_none(tmp_path):
    with writer(tmp_path / "s") as store:
        found = taken(store, axis(), 3)
        assert found.id.shape == (2, 3) and (found.id == -1).all()
        store.write(0, along([1]), "a")
        found = taken(store, axis(), 3)
        assert found.id.tolist() == [[0, -1, -1]] * 2
        assert found.key[0, :, 0].tolist() == [1, 0, 0]


def test_best_of_many_equal_ones():
    score = np.random.default_rng(0).integers(0, 50, 3000)
    key = np.zeros((3000, 1, 2), np.float32)
    key[:, 0, 0] = score
    matrix = matrix_of(key)
    for count in (1, 7, 40):
        place, _ = search(matrix, np.zeros(3000), np.eye(2, dtype=np.float32)[:1, None], count)
        assert place[0, 0].tolist() == np.lexsort((np.arange(3000), -score))[:count].tolist()
