"""Compiling a run: what the command says without the SDK, and the manifest that it keeps."""

import hashlib
import json
import sys
import tomllib
import types
from pathlib import Path

import pytest

from neuron import compile as command
from neuron.emulator import targets


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    for step in ("5", "30", "200.orbax-checkpoint-tmp"):
        (path / "checkpoints" / step).mkdir(parents=True)
    (path / "config.gin").write_text("Model.d_model = 8\n")
    return path


class StandIn:
    """Writes the request instead of a module."""

    def __init__(self, fails=False):
        self.requests, self.targets, self.fails = [], [], fails

    def compile(self, request, path):
        self.requests.append(request)
        self.targets.append(targets.resolve().device)
        path.write_text(str(request))
        if self.fails:
            raise KeyboardInterrupt
        return {"inputs": [{"name": "tokens"}], "outputs": []}


def test_without_the_sdk_one_line_tells_what_is_missing(run, capsys):
    assert command.main([str(run), "--target", "trn2", "--batch", "1", "--length", "128"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    for word in ("nki (", "neuronx-cc (", "torch-neuronx (", command.GUIDE, "requirements.txt"):
        assert word in error


def test_a_placeholder_is_not_the_sdk(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_neuronx", types.ModuleType("torch_neuronx"))
    assert "torch-neuronx (a package of that name without code)" in command.missing()
    real = types.ModuleType("torch_neuronx")
    real.trace = lambda: None
    monkeypatch.setitem(sys.modules, "torch_neuronx", real)
    assert not any("torch-neuronx" in line for line in command.missing())


def test_manifest_tells_the_artifact(run, capsys):
    sdk = StandIn()
    assert command.main([str(run), "--target", "trn3", "--length", "64", "--batch", "2"], sdk) == 0
    out = run / "neuron" / "trn3-step30-b2-l64"
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.pt"]
    manifest = json.loads((out / "manifest.json").read_text())
    content = (out / "model.pt").read_bytes()
    assert manifest["artifact"] == {
        "file": "model.pt",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    config = hashlib.sha256((run / "config.gin").read_bytes()).hexdigest()
    wanted = {"run": str(run), "step": 30, "target": "trn3", "mode": "prefill", "length": 64}
    assert manifest.items() >= (wanted | {"batch": 2, "config_sha256": config}).items()
    assert manifest["versions"]["numpy"] and manifest["inputs"] == [{"name": "tokens"}]
    assert sdk.targets == ["trn3"]


def test_what_is_there_is_not_compiled_again(run, capsys):
    sdk, words = StandIn(), [str(run), "--decode", "--step", "5"]
    assert [command.main(words, sdk) for _ in range(2)] == [0, 0]
    assert [(r.step, r.length, r.decode) for r in sdk.requests] == [(5, 1, True)]
    assert "was there already" in capsys.readouterr().out
    (run / "neuron" / "trn2-step5-b1-decode" / "model.pt").write_text("damaged")
    assert command.main(words, sdk) == 0 and len(sdk.requests) == 2


def test_an_interrupted_compilation_leaves_no_manifest(run):
    with pytest.raises(KeyboardInterrupt):
        command.main([str(run), "--decode"], StandIn(fails=True))
    out = run / "neuron" / "trn2-step30-b1-decode"
    assert not (out / "manifest.json").exists() and not (out / "model.pt").exists()
    assert command.main([str(run), "--decode"], StandIn()) == 0
    assert (out / "manifest.json").exists()


def test_another_artifact_is_not_overwritten(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert command.main([str(run), *out], StandIn()) == 0
    assert command.main([str(run), "--batch", "3", *out], StandIn()) == 2
    assert "batch is 1, asked for is 3" in capsys.readouterr().err
    (tmp_path / "out" / "manifest.json").write_text("[")
    assert command.main([str(run), *out], StandIn()) == 2
    assert "is no manifest" in capsys.readouterr().err


def test_wrong_runs_and_numbers_are_told(run, capsys):
    assert command.main([str(run / "nothing")], StandIn()) == 2
    assert "no run is here" in capsys.readouterr().err
    for step in (run / "checkpoints").iterdir():
        step.rmdir()
    assert command.main([str(run)], StandIn()) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    for words in (["--batch", "0"], ["--decode", "--length", "9"], ["--target", "gpu"]):
        with pytest.raises(SystemExit) as stop:
            command.main([str(run), *words], StandIn())
        assert stop.value.code == 2


def test_requirements_are_pinned_and_in_no_extra():
    root = Path(__file__).parents[2]
    pins = (root / "neuron" / "requirements.txt").read_text()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    for package in ("neuronx-cc", "torch-neuronx", "nki"):
        assert f"\n{package}==" in pins
        assert not any(line.startswith(package) for line in wanted)
