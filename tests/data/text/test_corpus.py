"""Documents come out of every kind of source, and what is corrupt is named."""

import json
import os
import sys
import types

import pytest

from bmojo.data.text import corpus
from bmojo.data.text.corpus import Corrupt, open_corpus, read, texts
from bmojo.data.text.prepare import Request, prepare
from bmojo.errors import UserError


def write(folder, contents):
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def everything(source, field="text", **options):
    parts = open_corpus(source, **options).parts
    return {
        split: [document for part in found for document in read(part, field)]
        for split, found in parts.items()
    }


def test_text_files_in_a_fixed_order_without_hidden_ones(tmp_path):
    source = write(
        tmp_path,
        {"b.txt": "b\r\n", "a/z.txt": "z", "a.txt": "ä", ".git/c.txt": "c", ".d.txt": "d",
         "e.md": "e", "empty.txt": ""},
    )  # fmt: skip
    assert everything(source) == {"": ["z", "ä", "b\r\n"]}
    assert everything(source, suffixes=[".md"]) == {"": ["e"]}
    assert everything(f"{source}/e.md") == {"": ["e"]}


def test_lines_are_read_once_wherever_the_ranges_end(tmp_path, monkeypatch):
    lines = [json.dumps({"body": "ü" * n}, ensure_ascii=False) for n in range(1, 40)]
    source = write(tmp_path, {"a.jsonl": "\n".join(lines), "b.jsonl": "\n\n" + lines[0] + "\n"})
    expected = ["ü" * n for n in range(1, 40)] + ["ü"]
    for size in (1, 7, 64, 10**6):
        monkeypatch.setattr(corpus, "RANGE", size)
        assert everything(source, "body") == {"": expected}


BAD = {
    "latin.txt": (b"one\ntwo\nthr\xe9e\n", "latin.txt:3: not UTF-8 (byte 0xe9, invalid cont"),
    "a.jsonl": ('{"text": "x"}\n{"text": "x"\n', "a.jsonl:2: not JSON (Expecting ',' delimiter"),
    "b.jsonl": ('{"text": "x"}\n\n{"body": 1}\n', "b.jsonl:3: no field 'text'; it has 'body'"),
    "c.jsonl": ('["text"]\n', "c.jsonl:1: not a JSON object but a list"),
    "d.jsonl": ('{"text": null}\n', "d.jsonl:1: 'text' is not a text but NoneType"),
    "e.jsonl": (b'{"text": "x"}\n{"text": "\xff"}\n', "e.jsonl:2: not UTF-8 (byte 0xff"),
    "f.jsonl": ('{"text": "\\ud83d"}\n', "f.jsonl:1: 'text' has half a surrogate pair"),
    "g.parquet": ("no", "g.parquet: not Parquet ("),
    "h.jsonl": ('{"text": "x", "n": ' + "1" * 5000 + "}\n", "h.jsonl:1: not JSON (Exceeds the li"),
    "i.jsonl": ("[" * 20_000, "i.jsonl:1: not JSON (maximum recursion depth exceeded"),
    "j.txt": (b"\xef\xbb\xbf\n\nth\xe9e", "j.txt:3: not UTF-8 (byte 0xe9, invalid cont"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("size", [3, 10**6])
def test_corrupt_documents_are_named_by_file_and_line(name, size, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "RANGE", size)
    content, words = BAD[name]
    found = everything(write(tmp_path, {name: content}))[""]
    (corrupt,) = [str(document) for document in found if isinstance(document, Corrupt)]
    assert corrupt.startswith(words)


def test_corrupt_documents_stop_the_work_or_are_listed(tmp_path):
    source = write(tmp_path / "in", {name: content for name, (content, _) in BAD.items()})
    request = Request(source, validation=0, test=0)
    with pytest.raises(UserError, match=r"a.jsonl:2: not JSON .*; mend it, or .* --skip-corrupt"):
        prepare(request, tmp_path / "out")
    request = Request(source, validation=0, test=0, skip_corrupt=True)
    manifest = prepare(request, tmp_path / "out").manifest
    assert manifest["skipped"] == len(BAD)
    assert manifest["splits"]["train"]["documents"] == 3
    listed = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(listed) == len(BAD)
    assert all(any(line.startswith(words) for line in listed) for _, words in BAD.values())


def test_tables_are_read_by_row_groups(tmp_path):
    import pyarrow
    from pyarrow import parquet

    values = [f"row {n}" for n in range(10)]
    values[7] = None
    parquet.write_table(
        pyarrow.table({"body": values, "n": list(range(10))}),
        tmp_path / "a.parquet",
        row_group_size=4,
    )
    source = str(tmp_path)
    assert len(open_corpus(source).parts[""]) == 3
    expected = [*values[:7], Corrupt("a.parquet:8", "'body' is not a text but NoneType")]
    assert everything(source, "body") == {"": [*expected, *values[8:]]}
    with pytest.raises(UserError, match="a.parquet: no column 'text'; choose one of body, n"):
        everything(source)


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pyarrow is not installed; pip install 'bmojo\[text\]'"):
        open_corpus(write(tmp_path, {"a.parquet": ""}))


def test_the_standard_library_is_the_same_every_time():
    first, again = open_corpus("stdlib"), open_corpus("stdlib")
    assert first == again
    names = [part.name for part in first.parts[""]]
    assert "argparse.py" in names and "asyncio/tasks.py" in names
    assert not [name for name in names if name.startswith(("test/", "site-packages/"))]
    assert sum(part.size for part in first.parts[""]) > 5e6


class Rows(list):
    """As much of a data set as is used."""

    column_names = ["body"]


@pytest.fixture
def hub(monkeypatch):
    rows = {
        "train": Rows({"body": f"row {n}"} for n in range(5000)),
        "test": Rows([{"body": "t"}, {"body": 3}]),
    }

    def load_dataset(name, config, split):
        if name != "known":
            raise ConnectionError("no\nroute")
        assert config in (None, "en")
        return rows if split is None else rows[split]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def test_data_sets_of_the_hub(hub):
    train = [f"row {n}" for n in range(5000)]
    wrong = Corrupt("hf:known::test:2", "'body' is not a text but int")
    assert everything("hf:known", "body") == {"train": train, "test": ["t", wrong]}
    assert everything("hf:known:en:train", "body") == {"": train}
    assert everything("hf:known", "body", by_folder=False) == {"": train}
    with pytest.raises(UserError, match="no column 'text'; choose one of body"):
        everything("hf:known")
    with pytest.raises(UserError, match=r"cannot be loaded \(ConnectionError: no route\); check"):
        open_corpus("hf:unknown")


def test_the_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets is not installed; pip install 'bmojo\[hf\]'"):
        open_corpus("hf:known")


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="none: no such file or folder; give one, or 'stdlib'"):
        open_corpus(str(tmp_path / "none"))
    with pytest.raises(UserError, match="has no folder 'train' to split by"):
        open_corpus(write(tmp_path, {"a.txt": "a"}), by_folder=True)


def test_byte_order_marks_are_no_text_and_line_ends_stay(tmp_path):
    marked = {"a.txt": "\ufeffa\r\nb\r", "b.jsonl": '\ufeff{"text": "\ufeffc\\r\\n"}\r\n'}
    assert everything(write(tmp_path, marked)) == {"": ["a\r\nb\r", "\ufeffc\r\n"]}


def test_all_readers_of_text_agree(tmp_path):
    from bmojo.cli.generate import _text
    from bmojo.data.text.tokenizers import ByteTokenizer
    from bmojo.evaluation.documents import read_documents
    from bmojo.evaluation.memory.text import read_tokens

    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert _text(path) == "a\r\nb"
    assert read_tokens(path, ByteTokenizer(), 257).tolist() == [256, *b"a\r\nb"]
    assert [d.tolist() for d in read_documents(path, ByteTokenizer())] == [[256, *b"a\r\nb", 256]]


def test_endings_in_capitals_count(tmp_path):
    source = write(tmp_path, {"A.TXT": "a", "B.Jsonl": '{"text": "b"}', "C.MD": "c"})
    assert everything(source) == {"": ["a", "b"]}
    assert (
        everything(source, suffixes=[".md"]) == everything(source, suffixes=[".MD"]) == {"": ["c"]}
    )
    (tmp_path / "D.GZ").touch()
    with pytest.raises(UserError, match="D.GZ: .GZ files are not read"):
        open_corpus(f"{source}/D.GZ")


def test_links_to_nothing_are_corrupt_documents(tmp_path):
    source = write(tmp_path / "in", {"a.txt": "a"})
    for name in ("b.txt", "c.jsonl", "d.parquet"):
        (tmp_path / "in" / name).symlink_to("nowhere")
    (tmp_path / "in" / "e.txt").symlink_to("e.txt")
    missing = "cannot be read (No such file or directory)"
    assert everything(source)[""][:4] == [
        "a", *(Corrupt(name, missing) for name in ("b.txt", "c.jsonl", "d.parquet"))
    ]  # fmt: skip
    assert [str(found).split(":")[0] for found in everything(source)[""]][4:] == ["e.txt"]
    manifest = prepare(Request(source, skip_corrupt=True), tmp_path / "out").manifest
    assert manifest["skipped"] == 4


def test_names_that_are_no_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"in-\xff")
    write(folder, {os.fsdecode(b"a-\xfe.txt"): "a text", os.fsdecode(b"b-\xfe.txt"): b"\xff"})
    manifest = prepare(Request(str(folder), skip_corrupt=True), tmp_path / "out").manifest
    assert manifest["source"] == "in-\\xff" and manifest["skipped"] == 1
    assert (tmp_path / "out" / "skipped.txt").read_text().startswith("b-\\xfe.txt:1: not UTF-8")


def test_texts_stop_or_skip(tmp_path):
    parts = open_corpus(write(tmp_path, {"a.txt": b"\xff", "b.txt": "b"})).parts[""]
    skipped = []
    assert list(texts(parts, "text", skipped)) == ["b"]
    assert skipped == ["a.txt:1: not UTF-8 (byte 0xff, invalid start byte)"]
    with pytest.raises(UserError, match="a.txt:1"):
        list(texts(parts, "text", None))
