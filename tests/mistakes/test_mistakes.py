"""What a user of the command line can get wrong, and the one line that says so.

A case is a name, what is planted in the folder of ``conftest.py``, the command, and the error;
`...` stands for any text. Mistakes inside a config have a table of their own in
``test_bad_configs.py``; here each kind stands once, to see that nothing was begun.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bmojo.cli import app
from tests.mistakes.data import PREPARE, PREPARED
from tests.mistakes.plant import table, write
from tests.mistakes.studies import REPORT, SWEEPS
from tests.mistakes.training import RESUME, TRAIN
from tests.mistakes.using import EVALUATE, GENERATE

TABLE = {
    f"{section}: {name}": case
    for section, cases in {
        "prepare": PREPARE, "prepared": PREPARED, "train": TRAIN, "resume": RESUME,
        "eval": EVALUATE, "generate": GENERATE, "sweep": SWEEPS, "report": REPORT,
    }.items()
    for name, case in cases.items()
}  # fmt: skip

TALKS = ("data prepare", "sweep", "train prose.gin --run-dir prose", "train --run-dir run")
"""Commands that say what they are about to do before they can see the mistake."""


def everything():
    return sorted(str(path) for path in Path().rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("name", TABLE)
def test_one_line_says_what_is_wrong_and_nothing_is_begun(here, name):
    plant, command, error = TABLE[name]
    plant()
    before = everything()
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    pattern = ".*".join(map(re.escape, f"error: {error}\n".split("...")))
    assert re.fullmatch(pattern, result.stderr), result.stderr
    assert result.exit_code == 2
    assert not result.stdout or command.startswith(TALKS)
    assert everything() == before


USAGE = {
    "data prepare books --out out --workers 0": "'--workers'",
    "inspect tiny.gin --length 0": "'--length'",
    "eval run perplexity --context 0": "'--context' / '--length'",
    "eval run length --batch-size 0": "'--batch-size'",
    "generate prose --max-new-tokens 0": "'--max-new-tokens'",
    "generate prose --seed -1": "'--seed'",
    "train tiny.gin --max-restarts -1": "'--max-restarts'",
    "train tiny.gin --max-restarts many": "'--max-restarts'",
    "sweep s.gin --workers 0": "'--workers'",
    "train tiny.gin --run-dir ''": "'--run-dir'",
    "train tiny.gin --fresh --run-dir ''": "'--run-dir'",
    "sweep s.gin --out ''": "'--out'",
    "data prepare books --out ''": "'--out'",
    "data train-tokenizer books --vocab-size 300 --out ''": "'--out'",
    "eval run perplexity --documents ''": "'--documents'",
    "generate prose --file ''": "'--file'",
    "checkpoint export run --to ''": "'--to'",
    "report run --out ''": "'--out'",
    "doctor tiny.gin --json ''": "'--json'",
    "bench ops --out ''": "'--out'",
}


@pytest.mark.parametrize("command", USAGE)
def test_options_out_of_range_are_told_with_the_usage(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 2
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"Error: Invalid value for {USAGE[command]}: ")
    assert not any(tmp_path.iterdir())


def test_a_run_is_whole_without_its_text_and_from_any_folder(here, monkeypatch):
    Path("prepared").rename("moved")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for command in (
        "generate ../prose --prompt a --max-new-tokens 1",
        "generate ../prose --ids 1 --max-new-tokens 1",
        "eval ../prose perplexity --documents ../books/0.txt --context 16",
        "inspect ../prose --memory ../books/0.txt --length 32",
        "checkpoint export ../prose --to exported",
        "eval ../prose test/Text.path=../moved train/Text.path=../moved",
    ):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, (command, result.output, result.exception)
    result = CliRunner().invoke(app, ["eval", "../prose"])
    assert result.exit_code == 2 and result.stderr.startswith("error: Text.path: prepared: ")


def test_files_whose_names_are_not_utf8_are_read(here):
    name = "in/a\udcff"
    write(f"{name}.txt", "some text " * 60)()
    write(f"{name}.jsonl", '{"text": "some lines"}\n')()
    table(f"{name}.parquet", "text")()
    for command in (
        "data prepare in --out out",
        f"generate prose --file {name}.txt --max-new-tokens 1",
        "eval prose perplexity --documents in --context 16",
        f"inspect prose --memory {name}.txt --length 32",
    ):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, (command, result.output, result.exception)
    splits = json.loads(Path("out/manifest.json").read_bytes())["splits"].values()
    assert sum(split["bytes"] for split in splits) == 600 + len("some lines") + 1


def test_the_world_is_right(here):
    """Everything that the table breaks works as it is."""
    for command in (
        "generate prose --prompt a --max-new-tokens 1",
        "data prepare books --out out --workers 1",
    ):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, (command, result.output, result.exception)


def test_brackets_of_a_path_and_of_a_name_are_shown_as_they_are(here):
    """A run ends, and is found finished, whatever its directory and evaluation are called."""
    command = "train tiny.gin --run-dir '[bold]r[/x]' Evaluation.name='\"[red]e[/y]\"'"
    for said in ("finished 2 steps", "this run is finished"):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, (result.output, result.exception)
        assert said in result.stdout and "[bold]r[/x]" in result.stdout
        assert "[red]e[/y]" in result.stdout
