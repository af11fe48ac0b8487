"""Runs whose checkpoints were damaged, resharded, or chosen by an evaluation."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pytest

import bmojo
from bmojo.training import hashes
from bmojo.training.checkpoints import FORMAT, Checkpoint, Checkpoints, restore_parameters
from bmojo.training.config import OptimizerConfig, TrainerConfig
from bmojo.training.run_dir import RunError
from scripts.reliability import damage as corrupt
from tests.training.standin import run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "straight"
    corrupt.run(path)
    return path


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("parameters/d", "flipped"), ("meta", "removed"), ("hashes.json", "removed")],
)
def test_damage_is_named_and_nothing_is_lost(straight, tmp_path, folder, kind):
    name = next(name for name in corrupt.files(straight) if name.startswith(folder))
    assert corrupt.case(straight, tmp_path / "run", name, kind) == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_damage_to_every_file(straight, tmp_path, kind):
    for number, name in enumerate(corrupt.files(straight)):
        assert corrupt.case(straight, tmp_path / str(number), name, kind) == "ok", name


def test_every_checkpoint_has_hashes(straight):
    kept = straight / "checkpoints"
    assert sorted(entry.name for entry in kept.iterdir()) == ["2", "4", "6"]
    assert all(hashes.changes(entry) == [] for entry in kept.iterdir())


@pytest.fixture
def saved(tmp_path):
    """Save a checkpoint of one array; what is needed to restore it."""
    parameters = {"w": np.arange(3, dtype="f4")}
    state = optax.EmptyState()

    def save(step):
        with Checkpoints(tmp_path, keep=1) as kept:
            kept.save(Checkpoint(step, parameters, (state, parameters), {}))

    return save, tmp_path, parameters, (state, parameters)


def test_a_format_that_is_not_known(saved, monkeypatch):
    save, path, *expected = saved
    with monkeypatch.context() as patch:
        wrote = {"format": 7, "version": "9.1"}
        patch.setattr("bmojo.training.checkpoints.stamp", lambda: wrote)
        save(1)
    message = (
        f"{path}/1: the checkpoint was written by bmojo 9.1 in format 7, bmojo "
        f"{bmojo.__version__} reads format 2; use bmojo 9.1, or train again with --fresh"
    )
    with Checkpoints(path) as kept, pytest.raises(RunError) as caught:
        kept.restore(*expected)
    assert str(caught.value) == message
    with pytest.raises(RunError) as caught:
        restore_parameters(path, expected[0])
    assert str(caught.value) == message
    assert (path / "1").is_dir() and FORMAT == 2


def test_a_checkpoint_says_who_wrote_it(saved):
    save, path, *expected = saved
    save(1)
    with Checkpoints(path) as kept:
        restored, _ = kept.restore(*expected)
    assert restored.meta == {"format": 2, "version": bmojo.__version__, "step": 1}


@pytest.mark.parametrize("wrote", [{}, {"format": 1}])
def test_a_checkpoint_of_the_first_version_is_refused_in_one_line(saved, monkeypatch, wrote):
    """Its parameters have other names; what it lacks says who wrote it."""
    save, path, *expected = saved
    with monkeypatch.context() as patch:
        patch.setattr("bmojo.training.checkpoints.stamp", lambda: wrote)
        save(1)
    message = r"/1: the checkpoint was written by bmojo 0\.1\.0 in format 1, .*use bmojo 0\.1\.0"
    with Checkpoints(path) as kept, pytest.raises(RunError, match=message) as caught:
        kept.restore(*expected)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=message):
        restore_parameters(path, expected[0])
    assert (path / "1").is_dir(), "it is not moved aside"


def test_hashes_that_cannot_be_written_are_told(saved, monkeypatch):
    _, path, parameters, state = saved

    def full(directory):
        raise OSError("No space left on device")

    monkeypatch.setattr(hashes, "write", full)
    said = []
    with Checkpoints(path, say=said.append) as kept:
        kept.save(Checkpoint(1, parameters, state, {}))
    assert len(said) == 1 and "step 1 could not be written (No space left on device)" in said[0]


def test_the_best_is_kept_though_the_run_was_interrupted(tmp_path):
    changes = {
        "optimizer": OptimizerConfig(0.3, schedule="constant", clip=None),
        "trainer": TrainerConfig(
            log_every=2,
            eval_every=2,
            checkpoint_every=5,
            keep=1,
            best="recall/loss",
            tensorboard=False,
            plots=False,
            compilation_cache=False,
        ),
    }
    with pytest.raises(RunError, match="no evaluation is called 'recal'"):
        wrong = TrainerConfig(best="recal/loss")
        run(tmp_path / "wrong", **(changes | {"trainer": wrong}))
    assert not (tmp_path / "wrong").exists()
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, **changes).exit_code == 0
    assert run(two, 33, signal.SIGTERM, **changes).exit_code == 143
    assert run(two, **changes).exit_code == 0
    found = []
    for path in (one, two):
        lines = (path / "metrics.jsonl").read_text().splitlines()
        rows = [r for r in map(json.loads, lines) if "evaluation" in r and r["group"] is None]
        best = min(rows, key=lambda row: row["loss"])["step"]
        assert best not in (5, 10, 13), "the test wants a best step at which no checkpoint is due"
        assert sorted(int(p.name) for p in (path / "checkpoints").iterdir()) == [best, 13]
        found.append((path / "metrics.jsonl").read_bytes())
    assert found[0] == found[1]


def test_onto_other_meshes_and_dtypes(tmp_path):
    """Saved on a mesh of 4 x 2 devices, restored on others, equal to the bit."""
    command = [sys.executable, "-m", "tests.training.checkpoints.resharding", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.endswith("all equal\n"), done.stderr


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Each saves its part; what one file's damage costs is the same for both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.checkpoints.several", str(tmp_path), str(port)]
    both = [
        subprocess.Popen([*command, str(i)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        assert [process.communicate(timeout=200)[0][-10:] for process in both] == [
            "all equal\n"
        ] * 2
    finally:
        for process in both:
            process.kill()
