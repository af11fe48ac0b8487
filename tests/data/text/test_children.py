"""Child processes take no file of the working directory for a module of the library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bmojo
from bmojo.benchmark.starts import PROGRAM as STEP
from bmojo.processes import PROGRAM


@pytest.mark.parametrize(
    "command",
    [
        [*PROGRAM, "data", "--help"],
        [*STEP[:-1], "bmojo.cli", "data", "--help"],
        [sys.executable, "-P", "-m", "bmojo.cli", *"data prepare in --out out --workers 2".split()],
    ],
    ids=["child", "step", "workers"],
)
def test_a_random_py_here_is_not_taken(command, tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong random')")
    for number in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.txt").write_text("text " * 99)
    environment = {**os.environ, "PYTHONPATH": str(Path(bmojo.__file__).parent.parent)}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
