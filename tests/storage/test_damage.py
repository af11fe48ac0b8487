"""Damaged files are found, and what can be made anew is."""

import sqlite3

import pytest

from bmojo.errors import UserError
from bmojo.storage import verify
from tests.storage.made import entries, queries, reader, writer


@pytest.fixture
def store(tmp_path):
    """A store with an index of 300 entries and a tail of 20, and what a search finds."""
    path = tmp_path / "s"
    with writer(path, exact_below=200) as made:
        made.write(0, entries(300), "a")
        made.publish()
        made.write(0, entries(20, 1), "b")
        found = made.search(0, queries(5), nearest=2, limit=10)
    assert verify(path) == []
    return path, found


def change(path, place=-100):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def execute(path, statement):
    with sqlite3.connect(path / "entries.sqlite") as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_index_is_built_anew(store, damage, caplog):
    path, before = store
    graph = sorted((path / "index").iterdir())[1]
    if damage == "changed":
        change(graph)
    elif damage == "cut":
        graph.write_bytes(graph.read_bytes()[:-1])
    else:
        graph.unlink()
    words = {"changed": "has changed", "cut": "bytes instead of", "missing": "is missing"}
    [problem] = verify(path)
    assert graph.name in problem and words[damage] in problem
    with reader(path, exact_below=200) as other:
        assert (other.search(0, queries(5), nearest=2, limit=10).id == before.id).all()
        assert graph.name in caplog.text
        with writer(path, exact_below=200) as made:
            assert made.records.stats()["layers"][0]["indexed"] >= 300
            assert (made.search(0, queries(5), nearest=2, limit=10).id == before.id).all()
        assert (other.search(0, queries(5), nearest=2, limit=10).id == before.id).all()
    assert verify(path) == [] and len(list((path / "index").iterdir())) == 2


@pytest.mark.parametrize(
    "statement, problem",
    [
        ("UPDATE payloads SET data = zeroblob(length(data)) WHERE id = 7", "entry 7 has changed"),
        ("UPDATE entries SET position = 99 WHERE id = 8", "entry 8 has changed"),
        ("UPDATE entries SET token = 'x' WHERE id = 8", "entry 8 has changed"),
        ("UPDATE entries SET context = x'00' WHERE id = 9", "entry 9 has changed"),
        ("DELETE FROM payloads WHERE id = 10", "entry 10 has no key and value"),
        ("DELETE FROM entries WHERE id = 11", "1 keys and values belong to no entry"),
        ("DELETE FROM sources WHERE name = 'b'", "20 entries have a source without a name"),
        ("DELETE FROM segments", None),
        ("UPDATE segments SET first = 5", "5 entries before it are in no index"),
        ("UPDATE segments SET last = 310", "holds 300 of 311 entries"),
        ("UPDATE counters SET value = 5 WHERE name = 'next_id'", "entry 319 is there, though"),
    ],
)
def test_damaged_rows_are_found(store, statement, problem):
    path, _ = store
    execute(path, statement)
    problems = verify(path)
    assert (len(problems) == 1 and problem in problems[0]) if problem else problems == []


def test_a_damaged_page_is_found(store):
    path, _ = store
    for page in range(1, (path / "entries.sqlite").stat().st_size // 4096):
        change(path / "entries.sqlite", 4096 * page + 2)  # of the page's head
    assert verify(path)


def test_rows_that_are_no_database(store):
    path, _ = store
    (path / "entries.sqlite").write_bytes(b"x" * 5000)
    for act in (verify, reader):
        with pytest.raises(UserError, match="cannot be opened as the rows of a store"):
            act(path)


def test_a_missing_payload_is_told(store):
    path, _ = store
    execute(path, "DELETE FROM payloads WHERE id = 319")
    with pytest.raises(UserError, match="entries of layer 0 are damaged; bmojo memory verify"):
        reader(path)
