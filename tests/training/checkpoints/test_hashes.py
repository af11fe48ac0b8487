import pytest

from bmojo.training import hashes
from scripts.reliability.damage import damage


@pytest.fixture
def folder(tmp_path):
    for name, size in (("a", 10), ("d/b", 100), ("d/empty", 0), ("e/c", 5)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(range(size)))
    hashes.write(tmp_path)
    return tmp_path


def test_nothing_has_changed(folder):
    read = []
    assert hashes.changes(folder, read.append) == []
    assert sum(read) == hashes.size(folder) == 115
    (folder / ".hashes.json.tmp").touch()  # as a kill while they are written leaves it
    assert hashes.changes(folder) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", ["d/b: has 50 bytes, 100 were written"]),
        ("flipped", ["d/b: has changed since it was written (SHA-256)"]),
        ("removed", ["d/b: is missing"]),
        ("renamed", ["d/b: is missing", "d/b~: is not one of the checkpoint's files"]),
    ],
)
def test_what_changed_is_named(folder, kind, words):
    damage(folder / "d/b", kind)
    assert hashes.changes(folder) == words
    assert hashes.changes(folder, within=["e"]) == []
    assert hashes.changes(folder, content=False) == ([] if kind == "flipped" else words)


def test_no_byte_of_the_hashes_can_change(folder):
    path = folder / hashes.NAME
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert hashes.changes(folder) == ["hashes.json: is not as it was written"]
    path.unlink()
    assert hashes.changes(folder) is None


def test_a_long_list_is_cut():
    assert hashes.shown(["a: x", "b: y"]) == "a: x; b: y"
    assert hashes.shown(list("abcde")) == "a; b; c; and 2 more"
