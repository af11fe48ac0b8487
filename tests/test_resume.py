"""The promise of ``bmojo train``: interrupt it anyhow, and the result is the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = 40  # in each of the two stages
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
def start(tmp_path_factory):
    """Start ``bmojo train`` in a directory; programs are compiled once for all runs."""
    cache = tmp_path_factory.mktemp("cache")

    def start(run_dir):
        return subprocess.Popen(
            [sys.executable, "-c", "from bmojo.cli import main; main()", "train", *SETTINGS]
            + ["--run-dir", str(run_dir)],
            cwd=ROOT,
            env={**os.environ, "BMOJO_CACHE_DIR": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory):
    """What ``metrics.jsonl`` holds after a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("straight")
    with start(path) as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return (path / "metrics.jsonl").read_bytes()


def signal_at(process, metrics, lines, number):
    """Send a signal as soon as the metrics have so many lines."""
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=300)


def test_killed_at_random_steps(start, straight, tmp_path):
    whole = straight.count(b"\n")
    kills = sorted(random.sample(range(1, whole - 3), 3))
    print(f"killed at lines {kills} of {whole}")
    for lines in kills:
        process = start(tmp_path)
        signal_at(process, tmp_path / "metrics.jsonl", lines, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    with start(tmp_path) as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight


def test_asked_to_stop(start, straight, tmp_path):
    process = start(tmp_path)
    signal_at(process, tmp_path / "metrics.jsonl", random.randrange(1, 20), signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    with start(tmp_path) as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "going on from step" in said
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight
