"""Implementations and versions that a run reports."""

import io
import re
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.multihost import Processes
from bmojo.ops.native import library
from bmojo.training import machine, preflight, report, run_setup
from tests.training.standin import run


def implementations(mixer):
    """Of a model with this mixer."""
    return run_setup.implementations(ModelConfig(8, 8, 1, (mixer, mixer)))


def test_cells_say_who_computes_them():
    layer = BMojoConfig(fading=SSDConfig(implementation="xla"), attention_implementation="xla")
    assert implementations(layer) == {"attention": "xla", "SSD scan": "xla"}
    cell = CanonicalSSMConfig()
    assert implementations(cell) == {"CanonicalSSM scan": "sequential (auto on cpu)"}
    bare = BMojoConfig(window=0, num_fading=0, num_eidetic=0, fading=cell)
    assert implementations(bare) == implementations(cell)
    for config in (SSDConfig(), SelectiveSSMConfig()):
        (said,) = implementations(config).values()
        assert said.endswith(" (auto on cpu)")


def test_a_kernel_that_cannot_be_made_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(library, "why_not", lambda: "no compiler")
    asked = [SSDConfig(implementation="native"), SelectiveSSMConfig(implementation="native")]
    for config in (*asked, BMojoConfig(attention_implementation="native")):
        with pytest.raises(ValueError, match="no native kernels: no compiler"):
            implementations(config)


def test_versions_newer_than_the_tested_are_named(monkeypatch):
    assert report.untested_versions() == []
    monkeypatch.setitem(report.TESTED, "jax", "0.9")
    monkeypatch.setitem(report.TESTED, "python", "3.9")
    (python, jax), newest = report.untested_versions(), "the newest that was tested"
    assert re.fullmatch(rf"python 3\.\d+\.\d+ is newer than 3\.9, {newest}", python)
    assert re.fullmatch(rf"jax 0\.\d+[.\d]+ is newer than 0\.9, {newest}", jax)
    found = dict.fromkeys(report.PACKAGES) | {"python": "3.11.1", "flax": "1.0rc1"}
    monkeypatch.setattr(report, "versions", lambda: found)
    assert [text.split()[0] for text in report.untested_versions()] == ["python", "flax"]


def test_an_untested_version_is_a_warning_of_train_and_doctor(monkeypatch, tmp_path):
    monkeypatch.setitem(report.TESTED, "jax", "0.9")
    console = Console(file=io.StringIO(), width=300)
    assert run(tmp_path, console=console).exit_code == 0
    (warning,) = report.untested_versions()
    assert f"\nwarning: {warning}\n" in console.file.getvalue()
    facts = {"versions": preflight.versions(), "devices": machine.devices(Processes())}
    lines = preflight.lines(facts | {"cache": preflight.cache(), "found_by": "nobody"})
    assert lines[:2] == [("versions", lines[0][1]), ("warning", warning)]


def test_dependencies_of_users_have_no_upper_bounds():
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tools = set(extras.pop("dev")) | set(extras.pop("docs"))
    required = [*project["dependencies"], *sum(extras.values(), [])]
    assert tools and all(re.fullmatch(r"[\w.-]+>=[\d.]+", word) for word in required)
    pins = (root / "constraints.txt").read_text().splitlines()
    for name in ("jax", "flax", "optax", "orbax-checkpoint", "grain"):
        (pin,) = [pin for pin in pins if pin.startswith(f"{name}==")]
        assert pin.startswith(f"{name}=={report.TESTED[name]}.")
