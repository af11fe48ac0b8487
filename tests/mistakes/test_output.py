"""Standard output that is closed or full, as processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bmojo

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
ROOT = str(Path(bmojo.__file__).parents[1])


def bmojo_to(place, *words):
    """Run a command that writes to a place."""
    code = "from bmojo.cli import main; main()"
    with open(place, "w") as output:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
        )


def test_training_goes_on_without_its_output(here):
    done = bmojo_to("/dev/full", "train", "tiny.gin", "--run-dir", "new")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(Path("new/summary.json").read_text())["status"] == "finished"


def test_a_command_that_only_shows_says_that_it_cannot(here):
    done = bmojo_to("/dev/full", "data", "show", "prepared")
    assert done.stderr == (
        "error: standard output cannot be written (No space left on device); choose another\n"
    )
    assert done.returncode == 4
