"""The choice between the real package and the emulator."""

import ast
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from neuron import emulator, info
from neuron import nki as chooser
from neuron.emulator.standin import as_nki


@pytest.fixture
def installed(monkeypatch):
    """Put a package ``nki`` with some attributes in place."""

    def install(**attributes):
        monkeypatch.delenv(chooser.FORCE_VARIABLE, raising=False)
        package = types.ModuleType("nki")
        package.__path__ = []
        for name, value in attributes.items():
            setattr(package, name, value)
        monkeypatch.setitem(sys.modules, "nki", package)
        for name in ("isa", "language"):
            module = types.ModuleType(f"nki.{name}")
            setattr(package, name, module)
            monkeypatch.setitem(sys.modules, f"nki.{name}", module)
        return package

    return install


def test_real_package_is_used_if_it_is_whole(installed):
    package = installed(jit=len, simulate=len, __version__="0.7.0")
    choice = chooser.choose()
    assert (choice.backend, choice.module, choice.version) == ("nki", package, "0.7.0")
    assert sys.modules["nki"] is package


def test_package_without_code_is_not_taken(installed):
    installed(jit=len)
    choice = chooser.choose()
    assert choice.backend == "emulator" and choice.module is emulator
    assert choice.reason == "the package nki has no simulate"


def test_package_that_refuses_to_be_imported(tmp_path, monkeypatch):
    (tmp_path / "nki.py").write_text("raise ImportError('WRONG PACKAGE')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nki", raising=False)
    choice = chooser.choose()
    assert choice.backend == "emulator" and "WRONG PACKAGE" in choice.reason


def test_environment_forces_the_emulator(installed, monkeypatch):
    installed(jit=len, simulate=len)
    monkeypatch.setenv(chooser.FORCE_VARIABLE, "emulator")
    assert chooser.choose().backend == "emulator"
    monkeypatch.setenv(chooser.FORCE_VARIABLE, "hardware")
    with pytest.raises(ValueError, match="BMOJO_NKI: must be 'emulator' or unset"):
        chooser.choose()


def test_stand_in_never_replaces_a_package(installed):
    package = installed()
    with pytest.raises(RuntimeError, match="does not take its place"), as_nki():
        pass
    assert sys.modules["nki"] is package


@pytest.mark.skipif(chooser.BACKEND == "nki", reason="the real package is installed")
def test_stand_in_runs_kernels_of_others():
    source = (
        "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n"
        "@nki.jit\ndef k(x):\n"
        "    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)\n"
        "    nisa.dma_copy(dst=out, src=x)\n    return out\n"
    )
    names = {}
    with as_nki() as nki:
        exec(source, names)
        result = nki.simulate(names["k"])(np.ones((2, 2), np.float32))
    assert (result == 1).all() and "nki" not in sys.modules


def test_info_says_which_and_why():
    text = "\n".join(info.lines())
    assert f"backend   {chooser.BACKEND}" in text
    assert chooser.CHOICE.reason in text and "ml_dtypes" in text


def test_emulator_needs_neither_jax_nor_bmojo():
    code = "import sys, neuron.nki; print('jax' in sys.modules, 'bmojo' in sys.modules)"
    root = Path(emulator.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_the_library_does_not_know_neuron():
    folder = Path(emulator.__file__).parents[2] / "bmojo"
    names = []
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
    assert "jax" in names and not any(n.split(".")[0] in ("neuron", "nki") for n in names)
