"""The promise of ``bmojo train``: interrupt it anyhow, and the result is the same."""

import random
import signal

import pytest

from scripts.reliability.kills import Runs, result, said, signal_at

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
    for lines in kills:
        process = runs.start(run)
        signal_at(process, run, lines, signal.SIGKILL)
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
