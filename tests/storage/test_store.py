"""Writing, publishing, reopening; who may open what."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.storage import Entries, Policy, Store, verify
from bmojo.storage import store as store_module
from tests.storage.made import along, axis, entries, identity, queries, reader, search, writer


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_reopened(tmp_path, blocks):
    with writer(tmp_path / "s") as store:
        store.write(0, entries(60), "a")
        store.write(2, entries(60, 1), "a")
        store.advance(100)
        store.publish()
        store.write(0, entries(60, 2, 60), "b")
    asked = queries(5)
    with writer(tmp_path / "s") as store:
        assert store.clock == 100 and store.count(0) == 120 and len(store) == 180
        first = search(store, asked, 2)
        store.write(2, entries(1, 3), "b")
        assert store.count(2) == 61
    with reader(tmp_path / "s") as store:
        assert same(search(store, asked, 2), first)
        assert store.records[180].source == "b"
    assert verify(tmp_path / "s") == []


def test_what_is_stored(tmp_path, clock):
    made = entries(5, first=1)
    with writer(tmp_path / "s") as store:
        store.advance(7)
        clock(1000)
        store.write(2, made, "letters")
        store.publish()
        record = store.records[0]
    assert (record.layer, record.source, record.position, record.token) == (2, "letters", 1, 1)
    assert (record.born, record.written, record.uses, record.used) == (7, 1000.0, 0, None)
    assert record.context.tolist() == [0, 1] and record.strength == 1
    assert np.float32(record.innovation) == made.innovation[0]
    assert np.array_equal(record.key, made.key[0])
    assert np.array_equal(record.value, made.value[0])


def test_a_reader_sees_what_is_published(tmp_path):
    with writer(tmp_path / "s") as store, reader(tmp_path / "s") as other:
        store.write(0, along([1]), "a")
        assert search(store, axis(), 1).id[0] == 0
        assert search(other, axis(), 1).id[0] == -1
        store.publish()
        assert search(other, axis(), 1).id[0] == 0
        for size in (2, 3, 4):
            store.write(0, along([size] * 40), "a")
            store.publish()
            mine = search(store, axis(), 50)
            assert same(search(other, axis(), 50), mine)
        store.forget(mine.id[0, :39].tolist())
        store.publish()
        assert other.count(0) == 121  # until it looks
        mine = search(store, axis(), 3)
        assert mine.key[0, :, 0].tolist() == [4, 3, 3]
        assert same(search(other, axis(), 3), mine)
        assert other.count(0) == 82
        assert same(search(other, axis(), 3), mine)
        store.compact()
        assert same(search(other, axis(), 3), mine)
        with pytest.raises(UserError, match="opened for reading"):
            other.write(0, along([1]), "a")


SECOND = """
import sys
from bmojo.storage import Store
from bmojo.errors import UserError
try:
    Store.open(sys.argv[1], write=True)
except UserError as error:
    print(error)
"""


def test_two_writers(tmp_path):
    def second():
        command = [sys.executable, "-c", SECOND, str(tmp_path / "s")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with writer(tmp_path / "s"):
        assert f"process {os.getpid()} on" in second()
        with reader(tmp_path / "s") as store:
            assert len(store) == 0
    assert second() == ""


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "cd" * 32}, "another model .model abababababab there and cdcdcdcdcdcd here"),
        ({"tokenizer": "ee"}, "another tokenizer .tokenizer none there and ee here"),
        ({"width": 4}, "another shape .width 8 there and 4 here"),
        ({"layers": (0, 3)}, "layers 0, 2 there and 0, 3 here"),
    ],
)
def test_strangers(tmp_path, change, message):
    writer(tmp_path / "s").close()
    for write in (True, False):
        with pytest.raises(UserError, match=message):
            Store.open(tmp_path / "s", identity(**change), write=write)
    Store.open(tmp_path / "s", identity(description="elsewhere"), write=True).close()


def test_no_store(tmp_path):
    with pytest.raises(UserError, match="no store is here"):
        reader(tmp_path / "s")
    with pytest.raises(UserError, match="no store is here"):
        Store.open(tmp_path / "s", write=True)
    assert not (tmp_path / "s").exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds 'notes.txt' and no store"):
        writer(tmp_path)
    writer(tmp_path / "s").close()
    (tmp_path / "s" / "store.json").write_text("{")
    with pytest.raises(UserError, match="not readable as the description of a store"):
        reader(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text('{"format": 1}')
    for act in (reader, writer):
        with pytest.raises(
            UserError, match="has format 1, written by bmojo 0.1.0 .* format 2: use"
        ):
            act(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text('{"format": 3, "version": "0.9"}')
    with pytest.raises(UserError, match="has format 3, written by bmojo 0.9"):
        reader(tmp_path / "s")


def test_a_half_made_store_is_made(tmp_path):
    writer(tmp_path / "s").close()
    (tmp_path / "s" / "store.json").unlink()
    writer(tmp_path / "s").close()
    assert verify(tmp_path / "s") == []


def test_the_same_calls_give_the_same(tmp_path, clock, blocks):
    def run(directory):
        with writer(directory, policy=Policy(reinforcement=0.5)) as store:
            found = []
            for number in range(6):
                clock(number)
                store.write(0, entries(80, number), "a")
                store.advance(80)
                found.append(search(store, queries(9, number), 3))
                if number % 2:
                    store.publish()
        return found, (directory / "entries.sqlite").read_bytes()

    (first, files), (second, others) = run(tmp_path / "a"), run(tmp_path / "b")
    for a, b in zip(first, second, strict=True):
        for name in vars(a):
            assert np.asarray(getattr(a, name)).tobytes() == np.asarray(getattr(b, name)).tobytes()
    assert files == others and files


def test_a_store_of_another_dtype_is_refused(tmp_path):
    writer(tmp_path / "s").close()
    file = tmp_path / "s" / "store.json"
    file.write_text(file.read_text().replace("float32", "float16"))
    for act in (reader, writer, verify):
        with pytest.raises(UserError, match="this version reads float32 of format 2: use"):
            act(tmp_path / "s")
    assert "float16" in file.read_text()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"key": np.zeros((3, 8))}, r"Entries.key: has shape \(3, 8\); give \(n, heads, width\)"),
        ({"value": np.zeros((3, 2, 7))}, r"Entries.value: has shape \(3, 2, 7\)"),
        ({"position": np.zeros(2)}, "Entries.position"),
        ({"context": np.zeros(3)}, r"Entries.context: .* give \(n, c\)"),
        ({"key": np.full((3, 2, 8), np.nan)}, "Entries.key: is infinite or not a number"),
    ],
)
def test_bad_entries(change, message):
    with pytest.raises(ValueError, match=message):
        entries(3, **change)


def test_entries_of_another_shape(tmp_path):
    made = entries(3)
    with writer(tmp_path / "s") as store:
        narrow = Entries(**vars(made) | {"key": made.key[..., :4], "value": made.value[..., :4]})
        with pytest.raises(ValueError, match=r"the store holds \(n, 2, 8\)"):
            store.write(0, narrow, "a")
        with pytest.raises(ValueError, match="queries: have shape"):
            store.assign(0, np.zeros((2, 8)), nearest=1)
        store.write(0, made, "a")
        assert (store.assign(0, np.full((2, 2, 1, 8), np.nan), nearest=1).id == -1).all()


@pytest.mark.parametrize("method", ["insert", "commit"])
def test_errors_of_the_disk_are_raised(tmp_path, monkeypatch, method):
    store = writer(tmp_path / "s")
    store.write(0, entries(3), "a")
    store.publish()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._rows, method, full)
    with pytest.raises(UserError, match="cannot be written .*No space left") as raised:
        store.write(0, entries(3), "a")
        store.publish()
    assert raised.value.exit_code == 4
    with pytest.raises(UserError, match="No space left"):
        store.write(0, entries(3), "a")
    with pytest.raises(UserError, match="No space left"):
        store.close()
    with reader(tmp_path / "s") as store:
        assert store.count(0) == 3
    writer(tmp_path / "s").close()


def test_what_was_written_some_time_ago_is_published(tmp_path, monkeypatch):
    with writer(tmp_path / "s") as store, reader(tmp_path / "s") as other:
        for number in (1, 2):
            store.write(0, along([number] * 3), "a")
            assert (search(other, axis(), 9).id[0] >= 0).sum() == 4 * (number - 1)
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + 6)  # noqa: B023
            store.write(0, along([number]), "a")
            assert (search(other, axis(), 9).id[0] >= 0).sum() == 4 * number


def test_many_rows_are_published_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PUBLISH_ROWS", 100)
    with writer(tmp_path / "s") as store, reader(tmp_path / "s") as other:
        for number, seen in enumerate((0, 0, 120)):
            store.write(0, entries(40, number), "a")
            assert (search(other, axis(), 999).id[0] >= 0).sum() == seen


def test_readers_without_rights(tmp_path):
    with writer(tmp_path / "s") as store:
        store.write(0, entries(5), "a")
    for path in (tmp_path / "s").iterdir():
        path.chmod(0o444)
    (tmp_path / "s").chmod(0o555)
    try:
        with reader(tmp_path / "s") as store:
            assert store.count(0) == 5
    finally:
        (tmp_path / "s").chmod(0o755)


def test_description(tmp_path):
    writer(tmp_path / "s", policy=Policy(capacity=9)).close()
    there = json.loads((tmp_path / "s" / "store.json").read_text())
    assert there["identity"]["layers"] == [0, 2] and there["policy"]["capacity"] == 9
    with writer(tmp_path / "s") as store:
        assert store.policy == Policy(capacity=9)
    with writer(tmp_path / "s", policy=Policy(capacity=8)) as store:
        assert store.policy == Policy(capacity=8)
    with reader(tmp_path / "s", policy=Policy(capacity=7)) as store:
        assert store.policy == Policy(capacity=8)
