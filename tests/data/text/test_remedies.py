"""The remedy that an error about text names is carried out, and the error is gone."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.data.text.prepare import Request, prepare
from bmojo.data.text.task import TextConfig
from bmojo.errors import UserError
from bmojo.experiment import load, prepare_data


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("books/1.txt", "books/2.txt", "folders/train/1.txt", "folders/test/1.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"text of {name} " * 300)


def data(command):
    result = CliRunner().invoke(app, ["data", *command.split(), "--workers=1"])
    assert result.exit_code == 0, result.output


def windows(path, split="test", **fields):
    return len(TextConfig(path, **{"length": 4, **fields}).source(0, split))


def refusal(*arguments, **fields):
    with pytest.raises(UserError) as error:
        windows(*arguments, **fields)
    return str(error.value)


def refused(command):
    result = CliRunner().invoke(app, ["data", *command.split()])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_the_documented_path_leads_from_one_file_to_training():
    data("prepare books/1.txt --out data/book")
    assert windows("data/book", "train") > windows("data/book") > 4
    assert windows("books/1.txt") > 4, "and text that is prepared on the way"


@pytest.mark.parametrize(
    "command", ["prepare folders --out out", "prepare books --out out --validation 0"]
)
def test_an_empty_split_is_made(command):
    data(command)
    message = refusal("out")
    named = re.search(
        r"is empty; set Text.held_out = 'test', or make one: bmojo data (.*)", message
    )
    source = command.split()[1]
    data(named.group(1).replace("SOURCE", source).replace("NEW", "new"))
    assert windows("new") > 4
    assert windows("out", held_out="test") > 4, "and the other choice"


def test_an_empty_split_of_text_that_is_prepared_on_the_way():
    assert "'validation' is empty; set Text.held_out = 'test', or" in refusal("folders")
    assert windows("folders", held_out="test") > 4


def test_both_splits_are_made():
    data("prepare books --out out --validation 0 --test 0")
    command = re.search(r"is empty; make one: bmojo data (.*)", refusal("out")).group(1)
    data(command.replace("SOURCE", "books").replace("NEW", "new"))
    assert windows("new") > 4


def test_an_evaluation_longer_than_its_text():
    def prepared(*more):
        overrides = ["TEXT=out", "Text.length=16", *more]
        prepare_data(load("experiments/text.gin", overrides, ["models/transformer.gin"])[0])

    data("prepare books --out out")
    with pytest.raises(UserError, match="asks for 16 batches of 4, its data have") as error:
        prepared()
    examples = int(re.search(r"have (\d+) examples; lower batches or batch_size", str(error))[1])
    prepared(f"Evaluation.batches={examples // 4}")
    prepared("Evaluation.batches=1", f"Evaluation.batch_size={examples}")


def test_a_window_longer_than_the_split():
    data("prepare books --out out")
    number = re.search(r"has (\d+) tokens, fewer .*; lower Text.length", refusal("out", length=999))
    assert windows("out", length=int(number.group(1))) == 1


def test_text_that_is_not_there():
    command = re.search(r"prepare it with bmojo data (.*)", refusal("new")).group(1)
    data(command.replace("SOURCE", "books"))
    assert windows("new") > 4


def test_a_vocabulary_that_is_too_small():
    data("prepare books --out out")
    size = re.search(r"raise it to (\d+)$", refusal("out", vocab_size=9)).group(1)
    assert windows("out", vocab_size=int(size)) > 4


def test_another_tokenizer():
    data("prepare books --out out")
    result = CliRunner().invoke(
        app, ["data", "train-tokenizer", "books", "--vocab-size", "260", "--out", "bpe.json"]
    )
    assert result.exit_code == 0, result.output
    spec = "tokenizers:bpe.json"
    message = refusal("out", vocab_size=260, tokenizer_spec=spec)
    assert message.endswith("leave it at None, or prepare the text again")
    assert windows("out", vocab_size=260) > 4
    data(f"prepare books --out again --tokenizer {spec}")
    assert windows("again", tokenizer_spec=spec) > 4


@pytest.mark.parametrize("remedy", ["choose another directory with --out", "delete this one"])
def test_a_directory_with_other_text(remedy):
    data("prepare books --out out")
    assert remedy in refused("prepare folders --out out")
    if "delete" in remedy:
        shutil.rmtree("out")
    data(f"prepare folders --out {'out' if 'delete' in remedy else 'other'}")


@pytest.mark.parametrize("pattern", ["train-*.array_record", "train-*.npy", "manifest.json"])
def test_damaged_text_is_prepared_again(pattern):
    data("prepare books --out out")
    (path,) = Path("out").glob(pattern)
    path.write_bytes(path.read_bytes()[:-9])
    assert "delete out and prepare the text again" in refusal("out", vocab_size=257)
    shutil.rmtree("out")
    data("prepare books --out out")
    assert windows("out") > 4


def test_unreadable_documents_are_left_out():
    Path("books/3.txt").write_bytes(b"\xff")
    command = "bmojo data prepare --skip-corrupt"
    assert f"mend it, or leave it out with {command}" in refused("prepare books --out out")
    assert f"mend it, or leave it out with {command}" in refusal("books"), "on the way"
    data("prepare books --out out --skip-corrupt")
    assert windows("out") > 4
    assert "leave it out with --skip" in refused("train-tokenizer books --vocab-size=257 --out=a")


def test_other_endings_are_named():
    Path("notes").mkdir()
    Path("books/1.txt").rename("notes/1.md")
    assert "name the ending with --suffix" in refused("prepare notes --out out")
    data("prepare notes --out out --suffix .md")
    assert windows("out") > 4


@pytest.mark.parametrize("remedy", ["make one", "give fractions"])
def test_a_source_without_a_folder_to_train_on(remedy):
    with pytest.raises(UserError, match=remedy):
        prepare(Request("books", by_folder=True), Path("out"))
    if remedy == "make one":
        Path("books/train").mkdir()
        Path("books/1.txt").rename("books/train/1.txt")
        prepare(Request("books", by_folder=True), Path("out"))
    else:
        data("prepare books --out out --validation 0.1")
