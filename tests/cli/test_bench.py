"""What a user of `bmojo bench` sees: tables, files, one-line errors, no number that is wrong."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from bmojo.benchmark import machine, operations
from bmojo.benchmark.operations import Sizes

OPS = ("bench", "ops", "--ops", "convolution", "--length", "9", "--channels", "4", "--states", "2")
OPS = (*OPS, "--heads", "2", "--width", "4", "--window", "4", "--fading", "1", "--eidetic", "2")
MODEL = ("--width", "16", "--layers", "2", "--heads", "2", "--vocabulary", "24", "--window", "4")
MODEL = (*MODEL, "--fading", "2", "--eidetic", "2")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(operations, "ODD", Sizes(1, 7, 4, 2, 2, 4, 3, 1, 2))
    for name, size in (("SQUARE", 8), ("COPIED", 64), ("EXPONENTIALS", 64)):
        monkeypatch.setattr(machine, name, size)


def test_ops_are_shown_and_written(bmojo):
    result = bmojo(*OPS, "--quick", "--out", "results")
    assert result.exit_code == 0, result.output
    assert "causal convolution, 4 taps, forward and gradient" in result.stdout
    assert "GEMM 9 x 4 x 4" in result.stdout
    found = json.loads(Path("results/results.json").read_text())
    assert found["settings"]["repetitions"] == 3 and found["settings"]["length"] == 9
    assert found["machine"]["threads"] >= 1
    assert all(check["passed"] for check in found["checks"])
    ours = [row for row in found["rows"] if row["case"] == "causal_convolution"]
    assert len(ours) == 2 and all(len(row["samples"]) == 3 for row in ours)
    assert all(row["baseline"] == "lax.conv_general_dilated" for row in ours)
    assert "# bmojo bench ops" in Path("results/results.md").read_text()


def test_a_wrong_operation_has_no_time(bmojo, monkeypatch):
    wrong = lambda x, kernel, tail: jnp.zeros_like(x)  # noqa: E731
    monkeypatch.setattr(operations, "causal_convolution", wrong)
    result = bmojo(*OPS, "--quick", "--out", "results")
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: causal convolution, 4 taps: causal_convolution: output")
    assert "differs by 1.00e+00, allowed are 1e-04" in last
    assert "WRONG" in result.stderr
    assert result.stdout == "" and not list(Path("results").iterdir())


def test_json_is_all_that_is_printed(bmojo):
    length = ("--length", "12", "--models", "swa", "--repetitions", "1", "--json")
    result = bmojo("bench", "step", *MODEL, *length)
    assert result.exit_code == 0, result.output
    (row, *_) = json.loads(result.stdout)["rows"]
    assert row["case"] == "swa" and row["facts"]["parameters"] > 1000
    assert row["temporary_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["ops", "--ops", "scann"], "--ops: there is no 'scann'; did you mean 'scan'?"),
        (["ops", "--width", "6"], "--width: 6 is no multiple of 4 heads; change one of them"),
        (["ops", "--fading", "9", "--window", "4"], "--fading: 9 slots need a window as long"),
        (["ops", "--quick", "--repetitions", "4"], "--quick: it is a number of repetitions"),
        (["step", "--models", "mamba,"], "--models: 'mamba,' has an empty name"),
        (["step", "--models", "mamba", "--baseline", "mamba2"], "--baseline: 'mamba2' is not"),
        (["step", "--models", "mmaba"], "command line: no config file 'models/mmaba.gin'"),
        (["step", "Model.x=1", "--models", "mamba"], "command line: Model.x=1: Model.x: Model has"),
        (["length", "--length", "100", "--segment", "64"], "--length: 100 is no multiple of"),
        (["peers", "--environments", "none"], "--environments: "),
        (["step", "--out", "file/out"], "--out: file/out cannot be written"),
    ],
)
def test_errors_are_one_line_before_any_work(bmojo, words, error, monkeypatch):
    monkeypatch.setattr("bmojo.benchmark.machine.load", lambda: 0.0)
    Path("file").write_text("")
    result = bmojo("bench", *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {error}"), result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""


@pytest.mark.parametrize("command", ["ops", "step", "length", "decode", "start", "peers"])
def test_help_has_examples_and_exit_codes(bmojo, command):
    result = bmojo("bench", command, "--help")
    assert result.exit_code == 0
    assert f"  bmojo bench {command}" in result.stdout
    for line in ("  0  ", "  1  ", "  2  "):
        assert line in result.stdout


def test_other_work_is_told_loudly(bmojo, monkeypatch):
    monkeypatch.setattr("bmojo.benchmark.machine.load", lambda: 2.0)
    result = bmojo(*OPS, "--quick", "--out", "results")
    assert "warning: OTHER WORK IS RUNNING: the load average is 2.00" in result.stderr
    assert "**OTHER WORK IS RUNNING" in Path("results/results.md").read_text()
