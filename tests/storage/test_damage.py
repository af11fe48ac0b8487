"""Damaged files are found, and what can be made anew is."""

import sqlite3

import pytest

from bmojo.errors import UserError
from bmojo.storage import verify
from tests.storage.made import entries, queries, reader, search, writer


@pytest.fixture
def store(tmp_path):
    """A store of 320 entries, and what a search finds."""
    path = tmp_path / "s"
    with writer(path) as made:
        made.write(0, entries(300), "a")
        made.publish()
        made.write(0, entries(20, 1), "b")
        found = search(made, queries(5), 2)
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


@pytest.mark.parametrize(
    "statement, problem",
    [
        ("UPDATE entries SET key = zeroblob(length(key)) WHERE id = 7", "entry 7 has changed"),
        ("UPDATE entries SET value = zeroblob(length(key)) WHERE id = 7", "entry 7 has changed"),
        ("UPDATE entries SET position = 99 WHERE id = 8", "entry 8 has changed"),
        ("UPDATE entries SET token = 'x' WHERE id = 8", "entry 8 has changed"),
        ("UPDATE entries SET context = x'00' WHERE id = 9", "entry 9 has changed"),
        ("UPDATE entries SET value = x'' WHERE id = 10", "entry 10 has changed"),
        ("DELETE FROM entries WHERE id = 11", "319 entries are there, though 320 were published"),
        ("UPDATE entries SET source = 'b' WHERE id = 12", "entry 12 has changed"),
        ("UPDATE entries SET born = 1, written = 2.0 WHERE id = 13", "entry 13 has changed"),
        ("UPDATE entries SET layer = 2 WHERE id = 14", "entry 14 has changed"),
        ("UPDATE entries SET layer = 1 WHERE id = 15", "entry 15 is of layer 1, which is not"),
        ("UPDATE entries SET uses = 7 WHERE id = 16", None),
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


def test_rows_on_a_damaged_page_are_not_loaded(store):
    path, _ = store
    rows = path / "entries.sqlite"
    change(rows, rows.stat().st_size - 4096)  # the kind of the last page
    with pytest.raises(UserError, match="entries are damaged; bmojo memory verify names them"):
        reader(path)
    assert verify(path)


def test_rows_that_are_no_database(store):
    path, _ = store
    (path / "entries.sqlite").write_bytes(b"x" * 5000)
    for act in (verify, reader):
        with pytest.raises(UserError, match="cannot be opened as the rows of a store"):
            act(path)


@pytest.mark.parametrize("change", ["key = x'00'", "key = 'x'", "position = 'x'"])
def test_damaged_entries_are_not_loaded(store, change):
    path, _ = store
    execute(path, f"UPDATE entries SET {change} WHERE id = 319")
    for act in (reader, writer):
        with pytest.raises(UserError, match="entries are damaged; bmojo memory verify names them"):
            act(path)
    assert len(verify(path)) == 1


@pytest.mark.parametrize("damage", ["UPDATE entries SET value = x'00'", "DELETE FROM entries"])
def test_a_value_that_is_damaged_while_the_store_is_open(store, damage):
    path, before = store
    with writer(path) as other:
        execute(path, f"{damage} WHERE id = {before.id[0, 0]}")
        with pytest.raises(UserError, match="entries are damaged; bmojo memory verify names them"):
            search(other, queries(5), 2)


def test_a_store_that_is_cut(store):
    path, _ = store
    rows = path / "entries.sqlite"
    rows.write_bytes(rows.read_bytes()[:-4096])
    for act in (verify, reader):
        with pytest.raises(UserError, match="cannot be opened as the rows of a store"):
            act(path)
