"""What surrounds a process: standard output, devices, the home directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bmojo
from bmojo.cli import app

ROOT = str(Path(bmojo.__file__).parents[1])
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")


def bmojo_to(place, *words, **environment):
    """Run a command that writes to a place."""
    code = "from bmojo.cli import main; main()"
    with open(place, "w") as output:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT, **environment},
        )


@full
def test_training_goes_on_without_its_output(here):
    done = bmojo_to("/dev/full", "train", "tiny.gin", "--run-dir", "new")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(Path("new/summary.json").read_text())["status"] == "finished"


@full
def test_a_command_that_only_shows_says_that_it_cannot(here):
    done = bmojo_to("/dev/full", "data", "show", "prepared")
    assert done.stderr == (
        "error: standard output cannot be written (No space left on device); choose another\n"
    )
    assert done.returncode == 4


@pytest.mark.parametrize("words", [("train", "tiny.gin", "--run-dir", "new"), ("doctor",)])
def test_devices_that_are_not_there(here, words):
    done = bmojo_to(os.devnull, *words, JAX_PLATFORMS="tpu")
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: JAX_PLATFORMS=tpu: "), done.stderr
    assert last.endswith("; unset it, or name another")
    assert "Traceback" not in done.stderr
    assert done.returncode == 2 and not Path("new").exists()


def test_no_home_directory(here, monkeypatch):
    for name in ("HOME", "BMOJO_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict().__getitem__)
    result = CliRunner().invoke(app, ["train", "tiny.gin", "--run-dir", "new"])
    assert result.stderr == (
        "error: BMOJO_CACHE_DIR: there is no home directory to keep compiled programs in; name a "
        "folder for them\n"
    )
    assert result.exit_code == 2 and not Path("new").exists()
