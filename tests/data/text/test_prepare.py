"""A corpus becomes shards: the same ones however the work was shared, stopped or resumed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bmojo
from bmojo.data.text import prepare as module
from bmojo.data.text.corpus import open_corpus, read
from bmojo.data.text.prepare import Request, lock, prepare
from bmojo.data.text.store import Documents, open_prepared
from bmojo.errors import UserError

ROOT = str(Path(bmojo.__file__).parent.parent)


def files(folder):
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"
    }


def write(folder, texts):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def stored(prepared, split):
    coder = prepared.tokenizer()
    return [coder.decode(d) for d in Documents(prepared.stream(split))]


@pytest.fixture
def small_jobs(monkeypatch):
    monkeypatch.setattr(module, "JOB_BYTES", (100, 100))


@pytest.fixture
def many(tmp_path):
    return write(
        tmp_path / "many", {f"{n // 10}/{n}.txt": f"text {n} für {n}\n" * 9 for n in range(40)}
    )


def test_every_document_is_stored_once_and_equal_ones_together(many, tmp_path, small_jobs):
    write(Path(many), {"again.txt": Path(many, "0/1.txt").read_text(), "empty.txt": ""})
    prepared = prepare(Request(many, validation=0.3, test=0.2), tmp_path / "out")
    found = {split: stored(prepared, split) for split in ("train", "validation", "test")}
    assert all(found.values())
    everything = [text for part in open_corpus(many).parts[""] for text in read(part)]
    assert sorted(sum(found.values(), [])) == sorted(everything)
    assert len(everything) == 41
    sets = [set(texts) for texts in found.values()]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 40
    for split, texts in found.items():
        facts = prepared.manifest["splits"][split]
        sizes = [len(text.encode()) for text in texts]
        assert (facts["documents"], facts["bytes"]) == (len(texts), sum(sizes))
        assert facts["tokens"] == sum(sizes) + len(texts)
        assert len(facts["shards"]) > 2
    prepared.check(whole=True)


def test_folders_are_splits(tmp_path):
    texts = {f"{split}/a.txt": split for split in ("train", "validation", "test")}
    prepared = prepare(Request(write(tmp_path / "in", texts)), tmp_path / "out")
    assert [stored(prepared, s) for s in ("train", "validation", "test")] == [
        ["train"],
        ["validation"],
        ["test"],
    ]
    request = Request(str(tmp_path / "in"), validation=0, test=0, by_folder=False)
    assert len(stored(prepare(request, tmp_path / "mixed"), "train")) == 3


SCRIPT = """
import os, signal, sys
from bmojo.data.text import prepare as module

if __name__ == "__main__":
    module.JOB_BYTES = (100, 100)
    source, out, workers, stop_after = sys.argv[1:]
    if int(stop_after):
        run, count = module._run_all, 0
        def stopping(todo, workers):
            for number, job in enumerate(run(todo, workers), start=1):
                yield job
                if number == int(stop_after):
                    os.kill(os.getpid(), signal.SIGKILL)
        module._run_all = stopping
    module.prepare(module.Request(source, validation=0.3, test=0.2), out, int(workers))
"""


def in_a_process(folder, *arguments):
    """Run the script, and wait until no process holds its output any more, its workers included."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_workers_and_kills_change_no_byte(many, tmp_path, small_jobs):
    """One process; two, killed in the middle; and one that goes on from there."""
    prepare(Request(many, validation=0.3, test=0.2), tmp_path / "one")
    killed = in_a_process(tmp_path, many, tmp_path / "two", 2, 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    notes = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("job-*.json")}
    assert 3 <= len(notes) < 40
    with pytest.raises(UserError, match="two: its preparation was interrupted"):
        open_prepared(tmp_path / "two")
    # What a kill in the middle of a shard leaves behind:
    (tmp_path / "two" / ".train-00039.array_record.tmp").write_bytes(b"half")
    first = sorted(notes)[0]
    shards = json.loads(first.read_bytes())["shards"].values()
    kept = [tmp_path / "two" / shard["file"] for shard in shards]
    before = [path.stat().st_mtime_ns for path in kept]
    resumed = in_a_process(tmp_path, many, tmp_path / "two", 2, 0)
    assert resumed.returncode == 0, resumed.stderr
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_finished_one_does_nothing_more(many, tmp_path, monkeypatch):
    prepare(Request(many), tmp_path / "out")
    before = files(tmp_path / "out")
    monkeypatch.setattr(module, "_work", None)
    prepare(Request(many), tmp_path / "out")
    assert files(tmp_path / "out") == before


BPE = {"tokenizer": "tokenizers:bpe.json"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (BPE, "tokenizer is 'bytes' there and 'tokenizers' now"),
        ({"validation": 0.5}, "validation is 0.01 there and 0.5 now"),
        ({"source": "other"}, "source is 'many' there and 'other' now"),
        ({"field": "body"}, "field is 'text' there and 'body' now"),
        ({}, "its files have changed since"),
    ],
)
def test_another_request_is_refused(change, words, many, tmp_path, monkeypatch):
    from bmojo.data.text.tokenizers import train_tokenizer

    monkeypatch.chdir(tmp_path)
    Path("bpe.json").write_bytes(train_tokenizer(iter(["abc"]), 258))
    write(tmp_path / "other", {"a.txt": "other"})
    prepare(Request(many), "out")
    if not change:
        Path(many, "0/0.txt").write_text("changed")
    with pytest.raises(UserError, match=f"out: holds other text .*{words}.*; choose another"):
        prepare(Request(**{"source": many, **change}), "out")


def test_an_interrupted_one_begins_anew_where_files_have_changed(many, tmp_path, small_jobs):
    Path(many, "3/39.txt").write_bytes(b"\xff")
    for _ in range(2):  # the jobs before it are kept
        with pytest.raises(UserError, match="39.txt:1: not UTF-8"):
            prepare(Request(many, validation=0, test=0), tmp_path / "out")
        assert len(list((tmp_path / "out").glob("job-*.json"))) > 9
    Path(many, "3/39.txt").write_text("mended")
    prepared = prepare(Request(many, validation=0, test=0), tmp_path / "out")
    assert stored(prepared, "train")[-1] == "mended"
    prepare(Request(many, validation=0, test=0), tmp_path / "once")
    assert files(tmp_path / "out") == files(tmp_path / "once")


def test_a_directory_with_other_things_is_left_alone(many, tmp_path):
    with pytest.raises(UserError, match="holds 'letters.txt' and no prepared text"):
        prepare(Request(many), write(tmp_path / "home", {"letters.txt": "dear"}))


def test_two_at_once_are_refused(many, tmp_path):
    from rich.console import Console

    with (
        lock(tmp_path / "out", False, Console(quiet=True)),
        pytest.raises(UserError, match="another process prepares text here"),
    ):
        prepare(Request(many), tmp_path / "out")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"a.md": "text"}, r"no file ending in .txt, .jsonl, .parquet .* --suffix"),
        ({"a.txt": "", "b.jsonl": "\n\n"}, "no text to train on"),
        ({"train/a.txt": "", "test/a.txt": "x"}, "no text to train on"),
    ],
)
def test_an_empty_corpus_is_an_error(texts, words, tmp_path):
    source = write(tmp_path / "in", texts)
    for _ in range(2):
        with pytest.raises(UserError, match=words):
            prepare(Request(source), tmp_path / "out")


def test_tokenizers_are_kept_with_the_tokens(tmp_path, monkeypatch):
    from bmojo.data.text.tokenizers import train_tokenizer

    monkeypatch.chdir(tmp_path)
    Path("bpe.json").write_bytes(train_tokenizer(iter(["the cat " * 9]), 300))
    source = write(tmp_path / "in", {"a.txt": "the cat " * 5000})
    prepared = prepare(Request(source, "tokenizers:bpe.json", 0, 0), "out")
    Path("bpe.json").unlink()
    moved = Path("out").rename("moved")
    prepared = open_prepared(moved)
    assert stored(prepared, "train") == ["the cat " * 5000]
    assert prepared.manifest["splits"]["train"]["tokens"] < 15000
    (moved / "tokenizer.json").write_bytes(train_tokenizer(iter(["other"]), 300))
    with pytest.raises(UserError, match="tokenizer.json: not the tokenizer"):
        prepared.check(whole=True)


def test_windows_of_the_stream_are_read_across_records_and_shards(many, tmp_path, small_jobs):
    long = "".join(map(chr, range(32, 127))) * 200  # five records
    write(Path(many), {"9/long.txt": long})
    stream = prepare(Request(many, validation=0, test=0), tmp_path / "out").stream("train")
    texts = [text for part in open_corpus(many).parts[""] for text in read(part)]
    whole = [token for text in texts for token in (256, *text.encode())] + [256]
    assert len(stream) == len(whole) - 1
    assert stream.read(0, len(whole)).tolist() == whole
    first = whole.index(256, whole.index(ord("~"))) - len(long) - 1  # of its shard, too
    edges = [first + 4096 * record + step for record in range(4) for step in (-1, 0, 1)]
    spans = [(start, stop) for start in edges for stop in edges if start <= stop]
    for start, stop in [*spans, (0, 0), (5, 6), (len(whole) - 1, len(whole))]:
        assert stream.read(start, stop).tolist() == whole[start:stop]
    assert np.flatnonzero(np.array(whole) == 256)[:-1].tolist() == stream.starts().tolist()
    assert Documents(stream)[-1].tolist() == [256, *texts[-1].encode(), 256]
    assert sum(len(document) - 1 for document in Documents(stream)) == len(stream)
    with pytest.raises(IndexError):
        stream.read(0, len(whole) + 1)


def damage(folder, what):
    record = next(folder.glob("train-*.array_record"))
    index = next(folder.glob("train-*.npy"))
    manifest = folder / "manifest.json"
    match what:
        case "missing shard":
            record.unlink()
        case "cut shard":
            record.write_bytes(record.read_bytes()[:-1])
        case "changed byte":
            content = bytearray(record.read_bytes())
            content[70_000] ^= 1
            record.write_bytes(content)
        case "missing index":
            index.unlink()
        case "edited manifest":
            manifest.write_text(manifest.read_text().replace('"many"', '"few"'))
        case "broken manifest":
            manifest.write_text("{")
        case "new format":
            manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
        case "nothing":
            for path in folder.iterdir():
                path.unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing shard", "array_record: the shard is missing; put it back"),
        ("cut shard", r"not what the manifest says \(\d+ bytes instead of"),
        ("changed byte", r"not what the manifest says \(its SHA-256 is another\)"),
        ("missing index", "documents.npy: the shard is missing"),
        ("edited manifest", "manifest.json: was changed by hand"),
        ("broken manifest", "manifest.json: not readable"),
        ("new format", "has format 2, this version reads 1"),
        ("nothing", "no prepared text is here; bmojo data prepare SOURCE --out"),
    ],
)
def test_damage_is_found(what, words, many, tmp_path):
    out = tmp_path / "out"
    prepare(Request(many), out)
    open_prepared(out).check(whole=True)
    damage(out, what)
    with pytest.raises(UserError, match=words):
        open_prepared(out).check(whole=True)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["one file", "15 files", "lines", "a table", "a character each"])
def test_every_split_gets_text_of_few_documents(kind, workers, tmp_path):
    texts = [f"{n}: " + "some words of a book\n" * (40 + n) for n in range(15)]
    folder = tmp_path / "in"
    folder.mkdir()
    if kind == "one file":
        texts = ["".join(texts)]
    elif kind == "a character each":
        texts = [c * 3 for c in "abcdef"]
    if kind == "a table":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), folder / "a.parquet", row_group_size=4)
    elif kind == "lines":
        write(folder, {"a.jsonl": "\n".join(json.dumps({"text": text}) for text in texts)})
    else:
        write(folder, {f"{n:02}.txt": text for n, text in enumerate(texts)})
    prepared = prepare(Request(str(folder)), tmp_path / "out", workers)
    found = [stored(prepared, split) for split in ("train", "validation", "test")]
    assert ["".join(parts) for parts in zip(*found, strict=True)] == texts
    for part, text in zip(found[1] + found[2], texts * 2, strict=True):
        assert 0 <= len(part) - len(text) / 100 < 1
    again = prepare(Request(str(folder)), tmp_path / "out", workers)
    assert again.fingerprint == prepared.fingerprint


def test_documents_are_whole_where_every_split_has_some(many, tmp_path):
    prepared = prepare(Request(many, validation=0.3, test=0), tmp_path / "out")
    assert not prepared.manifest["splits"]["test"]["documents"]
    found = stored(prepared, "train") + stored(prepared, "validation")
    assert sorted(found) == sorted(f"text {n} für {n}\n" * 9 for n in range(40))
    assert "cut" not in json.loads((tmp_path / "out" / "plan.json").read_text())


def test_a_flipped_bit_of_the_index_is_an_error(many, tmp_path):
    prepared = prepare(Request(many), tmp_path / "out")
    (path,) = (tmp_path / "out").glob("train-*.documents.npy")
    content = path.read_bytes()
    for place in np.linspace(0, 8 * len(content) - 1, 60, dtype=int):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"npy: not what the manifest says \(its SHA-256 is"):
            stored(prepared, "train")


def test_a_flipped_bit_of_the_texts_is_an_error_or_lies_in_the_filling(many, tmp_path):
    prepared = prepare(Request(many), tmp_path / "out")
    right = stored(prepared, "train")
    (path,) = (tmp_path / "out").glob("train-*.array_record")
    content, refused = path.read_bytes(), 0
    written = np.flatnonzero(np.frombuffer(content, np.uint8))
    for place in written[np.linspace(0, len(written) - 1, 60, dtype=int)]:
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert stored(prepared, "train") == right
        except UserError as error:
            assert f"{path}: not what the manifest says" in str(error)
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    "change", [lambda t: t[:-9], lambda t: t.replace('"tokens": ', '"tokens": 1')]
)
def test_a_damaged_note_is_made_again(change, many, tmp_path, small_jobs):
    write(Path(many), {"9/99.txt": b"\xff"})
    request = Request(many, validation=0, test=0)
    with pytest.raises(UserError, match="99.txt"):
        prepare(request, tmp_path / "out")
    note = tmp_path / "out" / "job-00000.json"
    note.write_text(change(note.read_text()))
    request = dataclasses.replace(request, skip_corrupt=True)
    prepare(request, tmp_path / "out").check(whole=True)
    prepare(request, tmp_path / "once")
    assert files(tmp_path / "out") == files(tmp_path / "once")


MEMORY = """
import sys
from bmojo.data.text.prepare import Request, prepare
from bmojo.data.text.tokenizers import tokenizer

source, out, spec = sys.argv[1:]
if source.endswith("parquet"):
    import pyarrow.parquet  # which takes memory itself
tokenizer(spec).encode("some words " * 1000)
status = lambda: open("/proc/self/status").read()  # rusage has the peak of the parent too
peak = lambda: 1024 * int(status().split("VmHWM:")[1].split()[0])
before = peak()
prepare(Request(source, spec), out)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize(
    ("kind", "size", "most", "ending"),
    [
        ("bytes", 16 * 2**20, 4, "txt"),
        ("tokenizers", 8 * 2**20, 12, "txt"),
        ("bytes", 16 * 2**20, 4, "parquet"),
        ("tokenizers", 8 * 2**20, 12, "parquet"),
    ],
)
@pytest.mark.one_in(3)
def test_the_memory_of_one_large_document(kind, size, most, ending, tmp_path):
    from bmojo.data.text.tokenizers import train_tokenizer

    line = "the memory of one large document, word by word\n"
    text = line * (size // len(line))
    source = Path(write(tmp_path, {"a.txt": text}), "a.txt")
    if ending == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="it is an extra")
        source = tmp_path / "a.parquet"
        table = pytest.importorskip("pyarrow").table({"text": [text]})
        parquet.write_table(table, source, use_dictionary=False)
    (tmp_path / "bpe.json").write_bytes(train_tokenizer(iter([line]), 280))
    spec = "bytes" if kind == "bytes" else f"tokenizers:{tmp_path / 'bpe.json'}"
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "out"), spec],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(done.stdout) < most * size
