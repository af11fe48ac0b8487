"""`bmojo data` from the outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bmojo
from bmojo.cli import app


@pytest.fixture(autouse=True)
def books(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        Path("books", split).mkdir(parents=True)
        for number in range(count):
            Path("books", split, f"{number}.txt").write_text(f"{split} {number} " * 100)


def run(*arguments):
    return CliRunner().invoke(app, ["data", *arguments])


def test_prepare_show_check():
    result = run("prepare", "books", "--out", "out", "--workers", "1")
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in row.split("│")] for row in result.stdout.splitlines()]
    assert ["", "train", "3", "2,403", "2,400", "0.999", "1", ""] in rows
    assert "bytes, 257 ids" in result.stdout
    assert run("show", "out").stdout in result.stdout
    again = run("prepare", "books", "--out", "out")
    assert again.exit_code == 0 and "out: is prepared already" in again.stdout
    assert run("check", "out").stdout == "out: every file is as it was written\n"
    next(Path("out").glob("*.array_record")).unlink()
    result = run("check", "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: out/") and "the shard is missing" in result.stderr


def test_a_trained_tokenizer_prepares_text():
    result = run("train-tokenizer", "books", "--vocab-size", "262", "--out", "bpe.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("bpe.json: 262 ids; use it with --tokenizer tokenizers:")
    result = run("prepare", "books", "--out", "out", "--tokenizer", "tokenizers:bpe.json")
    assert "tokenizers:tokenizer.json, 262 ids" in result.stdout


def test_skipped_documents_are_counted():
    Path("books/train/bad.txt").write_bytes(b"\xff")
    arguments = ["prepare", "books", "--out", "out", "--workers", "1"]
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: train/bad.txt:1: not UTF-8 (byte 0xff, invalid start byte); mend it, or leave it "
        "out with bmojo data prepare --skip-corrupt\n"
    )
    result = run(*arguments, "--skip-corrupt")
    assert result.exit_code == 0
    assert "1 documents were skipped; out/skipped.txt names them" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "none", "--out", "o"], "none: no such file or folder"),
        (["prepare", "books", "--out", "o", "--tokenizer", "byte"], "did you mean 'bytes'"),
        (["prepare", "books", "--out", "o", "--validation", "1"], "--validation: 1.0 is not a"),
        (["show", "books"], "books: no prepared text is here; bmojo data prepare SOURCE --out"),
        (
            ["train-tokenizer", "books", "--vocab-size", "300", "--out", "no/bpe.json"],
            "the folder no does not exist",
        ),
    ],
)
def test_errors_are_one_line(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["prepare", "train-tokenizer", "show", "check"])
def test_help_has_an_example_and_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom bmojo.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'jax', 'numpy', 'grain', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "data", command, "--help"],
        env={**os.environ, "PYTHONPATH": str(Path(bmojo.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"bmojo data {command} " in done.stdout and "Exit codes:" in done.stdout
