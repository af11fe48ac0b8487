"""The matched store: what it finds, what a reader sees, what is left after a kill or a flaw."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.ops import reference
from bmojo.ops.matching import Ngram
from bmojo.storage import MatchedIdentity, MatchedStore
from bmojo.storage import matched as module
from bmojo.storage.columns import LOG, Columns
from bmojo.storage.matched_records import entry, search, stats, text_at, verify

WIDTH, N = 4, 3


def identity(**changes):
    return MatchedIdentity(**dict(model="ab" * 32, tokenizer="", width=WIDTH, n=N) | changes)


def rows(tokens, seed=0, hashes=0):
    """Entries of a document that has these tokens: one for each but the last."""
    tokens = np.asarray(tokens)
    high, low = np.asarray(Ngram(N, 256).keys(jnp.asarray(tokens)[None]))[:, 0].astype(np.uint64)
    count = len(tokens) - 1
    rng = np.random.default_rng(seed)
    made = dict(
        key=rng.normal(size=(count, WIDTH)), token=tokens[1:],
        gram=((high << np.uint64(32)) | low)[:-1], whole=np.arange(count) + 1 >= N,
    )  # fmt: skip
    return made | ({"hashes": rng.integers(0, 2**32, (count, hashes))} if hashes else {})


def part(made, start, stop):
    return {name: array[start:stop] for name, array in made.items()}


def draw(length, vocab=2, seed=0):
    return np.random.default_rng(seed).integers(0, vocab, length)


def fill(store, documents):
    for name, tokens in documents.items():
        store.begin(name)
        store.append(**rows(tokens))


def content(store):
    """All that can be asked of a store."""
    names = ("key", "token", "gram", "previous")
    grams = np.unique(store.column("gram"))
    columns = [store.column(name).tolist() for name in names]
    return list(store.documents), columns, store.lookup(grams, 5).tolist(), len(store)


DOCUMENTS = {"a": draw(40, seed=1), "b": draw(30, seed=2), "c": draw(50, seed=3)}


@pytest.mark.parametrize("ring, chunk, cap", [(6, 4, 5), (0, 1, 60), (3, 25, 2)])
def test_a_document_is_read_as_by_the_oracle(tmp_path, ring, chunk, cap):
    tokens = draw(60)
    made, found = rows(tokens), []
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        store.begin("one")
        for edge in range(0, 60, chunk):
            store.append(**part(made, len(store), max(edge - ring, 0)))
            grams = made["gram"][edge : edge + chunk]
            matched = store.lookup(grams, cap)
            places = np.arange(edge, edge + len(grams))[:, None]
            found.append(np.where(places + 1 >= N, matched, -1))
    nothing = jnp.asarray(tokens), jnp.arange(60)
    expected = reference.matched_entries(*nothing, ring, chunk, N, cap, 60)
    assert (expected >= 0).any()
    np.testing.assert_array_equal(np.concatenate(found), expected[:59])


@pytest.mark.parametrize("few", [0, 99])
def test_matches_of_a_life_span_documents_and_ngrams_do_not(tmp_path, monkeypatch, few):
    monkeypatch.setattr(module, "FEW", few)
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        fill(store, DOCUMENTS)
        entries = []
        for tokens in DOCUMENTS.values():
            words = tokens.tolist()
            entries += [tuple(words[max(i - N + 1, 0) : i + 1]) for i in range(len(words) - 1)]
        assert len(entries) == len(store)
        made = rows(DOCUMENTS["a"])
        found = store.lookup(made["gram"], 7)
        assert found.dtype == np.int32
        for i in range(N - 1, 39):
            same = [j for j, gram in enumerate(entries) if gram == entries[i]][::-1]
            assert found[i].tolist() == (same + [-1] * 7)[:7]
        assert (store.lookup(np.array([2**63]), 3) == -1).all()


@pytest.mark.parametrize("few", [0, 99])
def test_chains_end_at_the_first_entry(tmp_path, monkeypatch, few):
    monkeypatch.setattr(module, "FEW", few)
    with MatchedStore.open(tmp_path / "s", identity(n=1), write=True) as store:
        store.begin("a")
        store.append(np.ones((4, WIDTH)), [7, 7, 8, 7], np.array([5, 5, 6, 5]))
        found = store.lookup(np.array([5, 6, 7]), 4)
        assert found.tolist() == [[3, 1, 0, -1], [2, -1, -1, -1], [-1] * 4]


@pytest.mark.parametrize("dtype, error", [("float32", 1e-7), ("int8", 0.02)])
def test_entries_are_gathered(tmp_path, dtype, error):
    kind, made = identity(dtype=dtype, hashes=2), rows(DOCUMENTS["a"], hashes=2)
    with MatchedStore.open(tmp_path / "s", kind, write=True) as store:
        store.begin("a")
        store.append(**made)
    with MatchedStore.open(tmp_path / "s", kind, write=False) as store:
        found = store.gather(np.array([[3, -1], [0, 38]]))
        assert np.abs(found.key[1, 1] - made["key"][38]).max() < error * np.abs(made["key"]).max()
        assert found.key.dtype == np.float32 and found.key.shape == (2, 2, WIDTH)
        np.testing.assert_array_equal(found.token[:, 0], made["token"][[3, 0]])
        np.testing.assert_array_equal(found.hashes[:, 0], made["hashes"][[3, 0]])
        assert (store.column("key").dtype == np.int8) == (dtype == "int8")


def test_a_reader_sees_what_was_published(tmp_path):
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        with MatchedStore.open(tmp_path / "s", identity(), write=False) as reader:
            fill(store, {"a": DOCUMENTS["a"]})
            reader.refresh()
            assert len(reader) == 0 and reader.documents == []
            store.publish()
            assert len(reader) == 0
            reader.refresh()
            assert content(reader) == content(store)
            fill(store, {"b": DOCUMENTS["b"]})
            store.publish()
            assert len(reader) == 39
            reader.refresh()
            assert content(reader) == content(store)
            with pytest.raises(UserError, match="opened for reading"):
                reader.begin("c")


def test_many_rows_are_published_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PUBLISH_ROWS", 30)
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        fill(store, {"b": DOCUMENTS["b"]})
        with MatchedStore.open(tmp_path / "s", write=False) as reader:
            assert len(reader) == 0
        fill(store, {"a": DOCUMENTS["a"]})
        with MatchedStore.open(tmp_path / "s", write=False) as reader:
            assert len(reader) == 68


@pytest.mark.parametrize("gone", [["a"], ["b"], ["c", "a"], ["a", "b", "c"]])
def test_what_is_forgotten_was_never_there(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(time, "time", lambda: 5.0)
    with MatchedStore.open(tmp_path / "other", identity(), write=True) as other:
        fill(other, {name: x for name, x in DOCUMENTS.items() if name not in gone})
        expected = content(other)
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        fill(store, DOCUMENTS)
        store.publish()
        with MatchedStore.open(tmp_path / "s", write=False) as reader:
            before = content(reader)
            count = sum(len(DOCUMENTS[name]) - 1 for name in gone)
            assert store.forget(gone) == count
            assert content(store) == expected
            assert content(reader) == before
            reader.refresh()
            assert content(reader) == expected
        fill(store, {"d": draw(9)})
    assert verify(tmp_path / "s") == (expected[-1] + 8, [])
    assert len(list((tmp_path / "s").glob("0*"))) == 1


def test_what_is_not_there_cannot_be_forgotten(tmp_path):
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        fill(store, DOCUMENTS)
        with pytest.raises(UserError, match="has no source 'aa'; did you mean 'a'"):
            store.forget(["aa"])


class Torn:
    """A file; whenever a part of what is written to it is there, a copy of the store is made."""

    def __init__(self, file, name, copy):
        self._file, self._name, self._copy = file, name, copy

    def write(self, data):
        for piece, last in ((data[: len(data) // 2], False), (data[len(data) // 2 :], True)):
            self._file.write(piece)
            self._file.flush()
            self._copy(published=last and self._name == LOG)

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_killed_at_any_write_the_last_publication_is_there(tmp_path, monkeypatch):
    copies, now, state = [], [], tmp_path / "s"

    def copy(published):
        if published:
            now.append(content(store))
        name = tmp_path / f"copy{len(copies)}"
        shutil.copytree(state, name)
        copies.append((name, now[-1]))

    open_file = Columns._open

    def torn(self, name, size):
        open_file(self, name, size)
        self._files[name] = Torn(self._files[name], name, copy)

    monkeypatch.setattr(Columns, "_open", torn)
    monkeypatch.setattr(module, "BLOCK", 25)
    with MatchedStore.open(state, identity(), write=True) as store:
        now.append(content(store))
        for name, tokens in DOCUMENTS.items():
            made = rows(tokens)
            store.begin(name)
            store.append(**part(made, 0, 11))
            store.publish()
            store.append(**part(made, 11, None))
        store.publish()
        kept = now[-1]
        now.append(kept)
        monkeypatch.setattr(sys.modules[__name__], "content", lambda store: kept)
        store.forget(["b"])
    monkeypatch.undo()
    assert len(copies) > 60
    for path, expected in copies:
        with MatchedStore.open(path, write=False) as reader:
            assert content(reader) == expected
        with MatchedStore.open(path, identity(), write=True) as writer:
            assert content(writer) == expected
            fill(writer, {"d": DOCUMENTS["a"]})
        assert verify(path) == (expected[-1] + 39, [])
        shutil.rmtree(path)


def test_killed_by_a_signal_the_last_publication_is_there(tmp_path):
    path, chance = tmp_path / "s", random.Random(0)
    for _ in range(3):
        command = [sys.executable, "-m", "tests.storage.test_matched", str(path)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
            first = writer.stdout.readline()
            time.sleep(chance.uniform(0.05, 0.3))
            writer.send_signal(signal.SIGKILL)
            lines = [line for line in writer.stdout if line.endswith("\n")]
        assert first == "begun\n"
        assert not verify(path)[1]
        with MatchedStore.open(path, write=False) as store:
            assert len(store) >= int(lines[-1] if lines else 0)
            assert len(store) % 29 == 0 and len(store.documents) == len(store) // 29
            np.testing.assert_array_equal(
                store.column("token"), np.tile(DOCUMENTS["b"][1:], len(store.documents))
            )


def test_flaws_are_named(tmp_path):
    path = tmp_path / "s"
    with MatchedStore.open(path, identity(), write=True) as store:
        fill(store, {"a": DOCUMENTS["a"]})
        store.publish()
        fill(store, {"b": DOCUMENTS["b"]})
    for name, place, words in [
        ("key", 700, "key: rows 39 to 67 have changed"),
        ("token", 0, "token: rows 0 to 38 have changed"),
        ("previous", 182, "previous: rows 39 to 67 have changed"),
        ("documents", 1, "documents: rows 0 to"),
        (LOG, 3, f"{LOG}: line 1 has changed"),
    ]:
        file = path / "000001" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        (problem,) = verify(path)[1]
        assert words in problem
        if name in ("previous", "documents"):
            with pytest.raises(UserError, match="entries are damaged; bmojo memory verify"):
                MatchedStore.open(path, write=False)
        file.write_bytes(whole)
    assert verify(path) == (68, [])
    (path / "000001" / "gram").write_bytes(b"")
    with pytest.raises(UserError, match="gram: 68 published rows are missing"):
        MatchedStore.open(path, write=False)
    (path / "000001" / "gram").unlink()
    with pytest.raises(UserError, match="gram: is missing; put the file back"):
        MatchedStore.open(path, write=False)
    (path / "matched.json").write_text("{")
    with pytest.raises(UserError, match="not readable as the description"):
        MatchedStore.open(path, write=False)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "s"
    with pytest.raises(UserError, match="no matched store is here"):
        MatchedStore.open(path, write=False)
    with MatchedStore.open(path, identity(), write=True) as store:
        with pytest.raises(ValueError, match="begin a document first"):
            store.append(**rows(DOCUMENTS["a"]))
        store.begin("a")
        with pytest.raises(ValueError, match=r"key: has shape \(39, 3\); the store holds \(n, 4\)"):
            store.append(**rows(DOCUMENTS["a"]) | {"key": np.zeros((39, 3))})
        with pytest.raises(UserError, match="writes to this store"):
            MatchedStore.open(path, identity(), write=True)
    with pytest.raises(UserError, match="n 3 there and 4 here"):
        MatchedStore.open(path, identity(n=4), write=False)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="holds 'note.txt' and no store"):
        MatchedStore.open(tmp_path, identity(), write=True)


def test_a_full_disk_ends_the_writing(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with MatchedStore.open(path, identity(), write=True) as store:
        fill(store, {"a": DOCUMENTS["a"]})
        store.publish()
        expected = content(store)
        monkeypatch.setattr(Columns, "append", lambda *_, **__: exec("raise OSError(28, 'full')"))
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be written .*full"):
                store.begin("b")
        monkeypatch.undo()
    with MatchedStore.open(path, identity(), write=True) as store:
        assert content(store) == expected


def test_reports(tmp_path):
    with MatchedStore.open(tmp_path / "s", identity(), write=True) as store:
        fill(store, {"x": [1, 2, 3, 4, 1, 2, 3], "y": [1, 2, 3, 9, 9], "x ": [3, 9]})
        found = stats(store)
        assert found["sources"] == {"x": 6, "y": 4, "x ": 1} and found["entries"] == 11
        assert found["ngrams"] == 5 and found["bytes"] == store.bytes() > 0
        # Tokens are kept as answers: those of x are 2 3 4 1 2 3, of y 2 3 9 9, of the last 9.
        assert search(store, np.array([2, 3])).tolist() == [2, 8]
        assert search(store, np.array([9])).tolist() == [9]
        assert search(store, np.array([3, 2])).tolist() == []
        assert text_at(store, 9, 2).tolist() == [3, 9] and text_at(store, 7, 5).tolist() == [2]
        assert entry(store, 8) | {"written": 0, "gram": ""} == {
            "id": 8, "source": "y", "position": 2, "written": 0, "token": 9, "gram": "",
            "previous": 2,
        }  # fmt: skip
        assert entry(store, 6)["previous"] is None
        with pytest.raises(UserError, match="has no entry 11"):
            entry(store, 11)


if __name__ == "__main__":
    MADE = rows(DOCUMENTS["b"])
    with MatchedStore.open(sys.argv[1], identity(), write=True) as STORE:
        print("begun", flush=True)
        while True:
            STORE.begin("b")
            STORE.append(**MADE)
            STORE.publish()
            print(len(STORE), flush=True)
