"""The emulator stands by itself: it imports NumPy, ml_dtypes and its own modules."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import neuron.emulator

FOLDER = Path(neuron.emulator.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
ALLOWED = {"numpy", "ml_dtypes", *sys.stdlib_module_names}
FOR_TESTS = {"pytest", "jax"}
"""``jax``: arrays of other libraries are taken as inputs."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_imports(path):
    allowed = ALLOWED | (FOR_TESTS if path.parent.name == "tests" else set())
    for name in imported(path):
        inside = name == "neuron.emulator" or name.startswith("neuron.emulator.")
        assert inside or name.partition(".")[0] in allowed, f"{path.name} imports {name}"


def test_nothing_else_is_loaded():
    code = (
        "import sys, neuron.emulator, neuron.emulator.lint, neuron.emulator.standin\n"
        "print(*(name for name in sys.modules if name.startswith(('neuron', 'bmojo', 'jax'))))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "neuron.emulator.launch" in found
    others = [name for name in found if not name.startswith("neuron.emulator")]
    assert others == ["neuron"]


def test_the_example_of_the_readme_runs(tmp_path):
    _, _, text = (FOLDER / "README.md").read_text().partition("```python\n")
    example = tmp_path / "example.py"
    example.write_text(text.partition("```")[0])
    namespace = runpy.run_path(str(example))
    assert (namespace["run"](np.ones((128, 8), np.float32)) == 2.0).all()
