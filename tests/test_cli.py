"""What a user of the command line sees: help, one-line errors, exit codes, tables."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bmojo
from bmojo.cli import app
from bmojo.cli.train import default_run_dir
from bmojo.training.train import RunResult

SMOKE = ["experiments/quickstart.gin", "runs/smoke.gin", "Trainer.compilation_cache=False"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", ["train", "eval", "generate", "inspect"])
def test_help_has_examples_and_exit_codes(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"  bmojo {command} " in result.stdout
    for line in ("  0  ", "  2  ", "  3  ", "  130, 143  "):
        assert line in result.stdout


def test_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("train", "eval", "generate", "inspect"):
        assert f"\n  {command} " in result.stdout
    assert "bmojo train configs/experiments/quickstart.gin" in result.stdout


def test_help_does_not_import_jax():
    code = (
        "import sys\nfrom bmojo.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'jax', 'flax', 'numpy', 'gin'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = str(Path(bmojo.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help"],
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_program():
    root = str(Path(bmojo.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "bmojo.cli", "eval", "--help"],
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: bmojo eval [OPTIONS] {RUN}")


def test_version():
    assert run("--version").stdout == f"bmojo {bmojo.__version__}\n"


def test_config_error_is_one_line_and_exit_code_2():
    result = run("train", "experiments/quickstart.gin", "Model.d_modle=8")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: command line: Model.d_modle=8: Model.d_modle: Model has no parameter 'd_modle'; "
        "did you mean 'd_model'?\n"
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["eval", "generate", "inspect"])
def test_no_run(command):
    Path("empty").mkdir()
    result = run(command, "empty")
    assert result.exit_code == 2
    expected = "error: empty: no run is here (no config.gin); train one with bmojo train\n"
    assert result.stderr == expected


def test_unknown_option_is_a_users_error():
    assert run("train", "experiments/quickstart.gin", "--sede", "1").exit_code == 2


def hashed(*words):
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:6]


@pytest.mark.parametrize(
    ("config", "overlays", "bindings", "expected"),
    [
        ("configs/experiments/quickstart.gin", [], [], "runs/quickstart"),
        ("experiments/quickstart.gin", ["models/swa.gin"], [], "runs/quickstart-swa"),
        ("experiments/mqar.gin", [], [], "runs/mqar/bmojo"),
        ("experiments/mqar.gin", ["models/mamba.gin"], [], "runs/mqar/mamba"),
        ("experiments/mqar.gin", ["models/bmojo.gin"], [], "runs/mqar/bmojo"),
        ("experiments/mqar.gin", [], ["X.y=1"], f"runs/mqar/bmojo-{hashed('X.y=1')}"),
        (
            "experiments/solomonoff/markov.gin",
            ["configs/models/swa.gin", "sizes/nano.gin"],
            ["X.y=1"],
            f"runs/solomonoff/markov/swa-{hashed('sizes/nano.gin', 'X.y=1')}",
        ),
        ("a/b.gin", ["models/swa.gin"], [], "runs/b-swa"),
        ("a/b.gin", [], ["X.y=1", "X.z=2"], f"runs/b-{hashed('X.y=1', 'X.z=2')}"),
        ("somewhere/mine/config.gin", [], [], "somewhere/mine"),
        ("somewhere/mine/config.gin", [], ["X.y=1"], f"runs/mine-{hashed('X.y=1')}"),
        ("somewhere/mine/config.gin", ["models/swa.gin"], [], "runs/mine-swa"),
    ],
)
def test_default_run_dir(config, overlays, bindings, expected, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    assert default_run_dir(config, overlays, bindings) == Path(expected)


@pytest.mark.parametrize(
    ("status", "code"), [("finished", 0), ("not finite", 3), ("interrupted", 143)]
)
def test_train_passes_everything_on_and_exits_with_its_code(monkeypatch, status, code):
    calls = []

    def train(*arguments, **options):
        calls.append((arguments, options))
        return RunResult(status, 1, code, "message")

    monkeypatch.setattr("bmojo.training.train.train", train)
    result = run("train", *SMOKE, "--seed", "7", "--run-dir", "here", "--fresh")
    assert result.exit_code == code
    ((experiment, directory), options), *more = calls
    assert not more
    found = (experiment.model.d_model, experiment.trainer.seed, directory)
    assert found == (16, 7, Path("here"))
    assert options["fresh"] and experiment.mesh is None and options["processes"].count == 1
    assert [stage.steps for stage in experiment.curriculum] == [2]
    assert [evaluation.name for evaluation in experiment.evaluations] == ["recall"]
    assert "Trainer.seed = 7\n" in options["config_text"]


def test_inspect_counts_by_part_and_by_length():
    result = run("inspect", "experiments/quickstart.gin", "--length", "64", "--length", "4096")
    assert result.exit_code == 0, result.stderr
    table = {}
    for line in result.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        table[cells[0]] = cells[1:]
    number = {
        name: int(row[-1].replace(",", ""))
        for name, row in table.items()
        if name[0:1] and row and row[-1].replace(",", "").isdigit()
    }
    parts = [name for name in number if name.startswith(("embedding", "2 x ", "norm"))]
    assert number["all"] == sum(number[part] for part in parts)
    assert number["embedding"] == 256 * 64
    assert number["without embedding and head"] == number["all"] - number["embedding"]
    assert table["64"][1] == table["4,096"][1], "the memory of B'MOJO does not grow"


def test_inspect_shows_that_full_attention_grows():
    result = run("inspect", "experiments/mqar.gin", "models/transformer.gin", "--length", "1024")
    bytes_per_token = 2 * 2 * 64 * 4  # layers, keys and values, width, float32
    row = next(line for line in result.stdout.splitlines() if "1,024" in line)
    assert f"{1024 * bytes_per_token:,}" in row


def test_inspect_shows_every_binding():
    result = run("inspect", "experiments/quickstart.gin", "--length", "64", "--config")
    assert "\nBMojo.num_eidetic = 32\n" in result.stdout
    assert "\nBMojo.span = 4\n" in result.stdout


@pytest.mark.slow
def test_train_resume_eval():
    first = run("train", *SMOKE, "--run-dir", "run")
    assert first.exit_code == 0, first.output
    assert run("train", "run/config.gin").exit_code == 0
    other = run("train", "run/config.gin", "Trainer.seed=3", "--run-dir", "run")
    assert other.exit_code == 2
    assert "run/config.gin" in other.stderr
    result = run("eval", "run", "recall/MQAR.num_pairs=(8,)", "recall/Evaluation.batch_size=4")
    assert result.exit_code == 0, result.stderr
    assert "recall" in result.stdout
    assert "64" not in result.stdout
