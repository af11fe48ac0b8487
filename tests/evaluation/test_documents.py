"""Reading documents, and what is said of files that are none."""

from types import SimpleNamespace

import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.evaluation.documents import read_documents, run_documents
from bmojo.runs import run_tokenizer
from tests.evaluation.byte_tokenizer import Bytes
from tests.generation.tokenizers import make


def test_a_text_stands_between_ends(tmp_path):
    (tmp_path / "b.txt").write_text("AB")
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "ids.npy", np.array([4, 5], np.uint16))
    (tmp_path / "c.jsonl").write_text('{"text": "A\\nB"}\n\n{"text": ""}\n')
    (tmp_path / "notes.md").write_text("left alone")
    found = read_documents(tmp_path, Bytes())
    a, b, newline = (ord(letter) % 23 for letter in "AB\n")
    assert [ids.tolist() for ids in found] == [
        [23, a, b, 23],
        [23, a, newline, b, 23],
        [4, 5],
    ]
    assert all(ids.dtype == np.int32 for ids in found)
    assert found.bytes is None, "of ids no text is known"
    assert read_documents(tmp_path / "b.txt", Bytes())[0].tolist() == [23, a, b, 23]


def test_bytes_are_those_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat, did it?")
    (tmp_path / "b.jsonl").write_text('{"text": "日本"}\n')
    found = read_documents(tmp_path, make("WordPiece"))
    assert found.bytes == len("the cat sat on the mat, did it?日本".encode())
    assert found.bytes != sum(len(make("WordPiece").decode_bytes(ids)) for ids in found)


def test_bytes_of_a_run_are_those_of_its_manifest():
    facts = {"validation": {"bytes": 7}, "test": {"bytes": 5}}
    prepared = SimpleNamespace(facts=facts.get)
    text = SimpleNamespace(length=8, documents=lambda split: [split], prepare=lambda: prepared)
    stage = SimpleNamespace(data=text)
    assert run_documents(SimpleNamespace(curriculum=(stage,))).bytes == 5


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"\xff", "a.txt:1: not UTF-8 .*; mend it$"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "a.jsonl:2: no field 'text'"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not a JSON object"),
        ("a.npy", b"junk", "a.npy: cannot be read as an array"),
        ("a.md", b"text", "no documents are here"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_documents(tmp_path, Bytes())


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read as an array"):
        read_documents(tmp_path, Bytes())


def test_text_after_another_task():
    """A curriculum may begin with a task of bare tokens: the text counts, the last one."""

    def stage(**data):
        return SimpleNamespace(data=SimpleNamespace(length=8, **data))

    def text(name):
        return stage(tokenizer=name, documents=lambda split: [f"{name} {split}"])

    experiment = SimpleNamespace(curriculum=(stage(), text("first"), text("last"), stage()))
    assert run_documents(experiment) == ["last test"]
    assert run_tokenizer(experiment) == "last"
    experiment = SimpleNamespace(curriculum=(stage(),))
    assert run_tokenizer(experiment) is None
    with pytest.raises(UserError, match="no documents"):
        run_documents(experiment)
