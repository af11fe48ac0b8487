"""The promise of ``bmojo train``: interrupt it anyhow, and the result is the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.reliability.runs import Runs, lines, result, said, signal_at

ROOT = Path(__file__).parents[1]
STEPS = 40
SETTINGS = [
    "experiments/quickstart.gin",
    "runs/smoke.gin",
    f"Experiment.max_steps={STEPS}",
    "Trainer.log_every=2",
    "Trainer.checkpoint_every=5",
    "Trainer.eval_every=10",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs whose programs are compiled once for all of them."""
    return Runs(SETTINGS, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def straight(runs, tmp_path_factory):
    """What comes of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("straight")
    runs.finish(path)
    return result(path)


def test_killed_at_random_steps(runs, straight, tmp_path):
    run = tmp_path / "run"
    whole = straight[0].count(b"\n")
    kills = sorted(random.sample(range(1, whole - 3), 3))
    print(f"killed at lines {kills} of {whole}")
    for count in kills:
        process = runs.start(run)
        signal_at(process, run, count, signal.SIGKILL)
        assert process.exitcode == -signal.SIGKILL
    runs.finish(run)
    assert result(run) == straight


def test_asked_to_stop(runs, straight, tmp_path):
    run = tmp_path / "run"
    process = runs.start(run)
    signal_at(process, run, random.randrange(1, 20), signal.SIGTERM)
    assert process.exitcode == 128 + signal.SIGTERM, said(run)
    assert "going on from step" in runs.finish(run)
    assert result(run) == straight


def supervised(run, cache):
    """``bmojo train --max-restarts 2`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from bmojo.cli import main; main()", "train", *SETTINGS]
        + ["--run-dir", str(run), "--max-restarts", "2"],
        cwd=ROOT,
        env={**os.environ, "BMOJO_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_supervised_run_is_killed_and_goes_on_by_itself(runs, straight, tmp_path):
    """And another one beside it is refused, not started again."""
    run = tmp_path / "run"
    with supervised(run, runs.cache) as process:
        deadline = time.monotonic() + 300
        while lines(run) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        child = int((run / ".lock").read_text())
        os.kill(child, signal.SIGSTOP)
        with supervised(run, runs.cache) as other:
            refused = other.communicate(timeout=300)[0]
        assert other.returncode == 2
        assert "is training here" in refused and "restart" not in refused
        os.kill(child, signal.SIGKILL)
        told = process.communicate(timeout=300)[0]
    assert process.returncode == 0, told
    assert "the training died of SIGKILL" in told and "restart 1 of 2 in 1 s" in told
    assert result(run) == straight
