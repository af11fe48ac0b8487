"""`bmojo sweep` as its user sees it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bmojo
from bmojo.cli import app
from bmojo.experiment import load
from bmojo.sweep.plan import read
from bmojo.sweep.pool import Result

ROOT = Path(bmojo.__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(app, ["sweep", *arguments])


def finish(cell, out=Path("runs/smoke")):
    path = out / cell.name
    path.mkdir(parents=True)
    _, text = load(cell.config, [*cell.bindings, f"Trainer.seed={cell.seed}"], cell.overlays)
    (path / "config.gin").write_text(text)
    (path / "summary.json").write_text(
        json.dumps({"status": "finished", "step": 2, "final": {}, "evaluations": []})
    )
    (path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.5, "accuracy": 0.5}\n')


@pytest.fixture
def started(monkeypatch):
    """What the pool is asked to run; nothing is run, and cells end with these codes."""
    asked, codes = [], {}

    def pool(cells, workers, watcher, program):
        assert program[1:] == ("-P", "-m", "bmojo.cli", "--child")
        asked.append(([cell.name for cell in cells], workers))
        results = []
        for cell in cells:
            watcher.started(cell)
            results.append(Result(cell, codes.get(cell.name, 0), "the end"))
            watcher.ended(results[-1])
        return results, None

    monkeypatch.setattr("bmojo.sweep.pool.run", pool)
    return asked, codes


def test_help_has_examples_and_exit_codes():
    result = CliRunner().invoke(app, ["sweep", "--help"])
    assert result.exit_code == 0
    for line in ("  bmojo sweep ", "  0  ", "  1  ", "  2  ", "  130, 143  "):
        assert line in result.stdout


@pytest.mark.parametrize("command", ["sweep", "report"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom bmojo.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'jax', 'flax', 'numpy', 'gin', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_list_shows_commands_and_states_and_runs_nothing(started):
    finish(read("sweeps/smoke.gin").cells[0])
    result = run("sweeps/smoke.gin", "--list")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["finished", "new", "new", "new"]
    assert lines[1].endswith("--seed 0 --run-dir runs/smoke/swa-seed0")
    assert started[0] == []


def test_finished_cells_are_skipped_and_unfinished_go_on(started):
    finished, unfinished = read("sweeps/smoke.gin").cells[:2]
    finish(finished)
    finish(unfinished)
    (Path("runs/smoke") / unfinished.name / "summary.json").unlink()
    result = run("sweeps/smoke.gin", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert started[0] == [(["swa-seed0", "bmojo-seed1", "swa-seed1"], 2)]
    assert "4 cells, 1 of them finished, in runs/smoke" in result.stdout
    assert "swa-seed0: goes on after step 4" in result.stdout
    assert result.stdout.endswith("4 of 4 cells finished\n")


def test_a_failed_cell_is_reported_with_its_end(started):
    started[1]["swa-seed0"] = 3
    result = run("sweeps/smoke.gin")
    assert result.exit_code == 1
    assert len(started[0][0][0]) == 4, "the others are run"
    assert "swa-seed0 failed with exit code 3; runs/smoke/swa-seed0.log ends:\nthe end\n" in (
        result.stdout
    )
    assert result.stdout.endswith("3 of 4 cells finished, 1 failed\n")


def test_only_some_cells(started):
    assert run("sweeps/smoke.gin", "--only", "swa", "--only", "*-seed1").exit_code == 0
    assert started[0][0][0] == ["swa-seed0", "bmojo-seed1", "swa-seed1"]
    result = run("sweeps/smoke.gin", "--only", "sw")
    assert result.exit_code == 2
    assert result.stderr == "error: --only sw: no cell has such a name; did you mean 'swa'?\n"


def test_a_wrong_cell_stops_all_before_work(started):
    result = run("sweeps/smoke.gin", "BMojo.num_eidetc=3")
    assert result.exit_code == 2
    assert "bmojo-seed0: BMojo.num_eidetc=3: " in result.stderr
    assert "did you mean 'num_eidetic'?" in result.stderr
    assert started[0] == [] and not Path("runs").exists()


CRASH = """
include 'sweeps/smoke.gin'
Sweep.cells = (('',), ('crash', 'Optimizer.learning_rate=1e30', 'Experiment.max_steps=6'))
Sweep.models = ('models/swa.gin',)
Sweep.seeds = (0,)
"""


def command(*arguments):
    code = "from bmojo.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "sweep", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_real_cells_run_one_crashes_and_the_same_command_goes_on():
    Path("crash.gin").write_text(CRASH)
    first = command("crash.gin", "--workers", "2")
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 1, output
    assert "swa-crash-seed0 failed with exit code 3" in output
    assert "lower Optimizer.learning_rate" in output
    assert output.endswith("1 of 2 cells finished, 1 failed\n")
    summary = json.loads(Path("runs/crash/swa-seed0/summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["command"].startswith("bmojo train ")
    shown = run("crash.gin", "--list").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["finished", "step"]


@pytest.mark.slow
def test_a_sweep_that_is_stopped_saves_and_goes_on():
    steps = "Experiment.max_steps=60"
    words = ["sweeps/smoke.gin", "--only", "swa-seed0", steps, "Optimizer.schedule=constant"]
    metrics = Path("runs/smoke/swa-seed0/metrics.jsonl")
    first = command(*words)
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") > 5:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 130, output
    assert "0 of 1 cells finished, 1 not done; the same command goes on" in output
    second = command(*words)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert "swa-seed0: goes on after step " in output
    assert "going on from step " in Path("runs/smoke/swa-seed0.log").read_text()
