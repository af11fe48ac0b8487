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


@pytest.fixture
def torch(monkeypatch):
    """PyTorch, beside a stand-in for torch_neuronx that traces and doesn't compile.

    Kernels are operators for it, as ``nki_op`` makes them; what they compute is emulated.
    """
    for package in ("torch", "safetensors"):
        pytest.importorskip(package, reason=f"needs the extra torch: no {package}")
    import torch

    from neuron import launchers

    standin = types.ModuleType("torch_neuronx")

    def trace(module, inputs, compiler_workdir, compiler_args):
        standin.words = compiler_args
        return torch.jit.trace(module, inputs, check_trace=False)

    standin.trace = trace
    monkeypatch.setitem(sys.modules, "torch_neuronx", standin)
    library = torch.library.Library("bmojo_tests", "DEF")
    for name in ("layer_step", "running_sets"):
        function = getattr(launchers, name).__wrapped__
        library.define(name + torch.library.infer_schema(function, mutates_args={}))
        library.impl(name, function, "CPU")
        monkeypatch.setattr(launchers, name, getattr(torch.ops.bmojo_tests, name))
    torch.manual_seed(0)
    with torch.no_grad():
        yield torch
    library._destroy()


def compiled(torch, run, out, *words):
    """The module that the command leaves, its manifest, and what the compiler was told."""
    command_line = [str(run), "--out", str(out), "--batch", "2", "--target", "trn3", *words]
    assert command.main(command_line, command.Sdk()) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["step"] == 2
    assert sys.modules["torch_neuronx"].words == ["--target=trn3", "--auto-cast=none"]
    return torch.jit.load(out / "model.pt"), manifest


def agree(torch, model, module, manifest, tokens, first, length):
    """Run a module over the tokens from ``first`` on; compare it with the model and manifest."""
    from neuron.model import flatten

    def outlines(tensors):
        return [(list(x.shape), str(x.dtype).removeprefix("torch.")) for x in tensors]

    def told(kind):
        return [(x["shape"], x["dtype"]) for x in manifest[kind]]

    state, found = flatten(model(tokens[:, :first])[1] if first else model.init_state(2)), []
    for at in range(first, tokens.shape[1], length):
        inputs = tokens[:, at : at + length], *state
        logits, *state = module(*inputs)
        assert outlines(inputs) == told("inputs")
        assert outlines((logits, *state)) == told("outputs")
        found.append(logits)
    wanted, after = model(tokens)
    torch.testing.assert_close(torch.cat(found, dim=1), wanted[:, first:], rtol=1e-4, atol=1e-4)
    for a, b in zip(state, flatten(after), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# What the trace takes for constant are shapes, which are those of the artifact.
TRACING = ("ignore:.*torch.jit:DeprecationWarning", "ignore:Converting a tensor to a Python bool")


@pytest.mark.torch
@pytest.mark.filterwarnings(*TRACING)
def test_decoding_a_run_end_to_end(torch, trained, imported, tmp_path):
    """The real model by its kernels, traced, saved, loaded; over an edge of chunks."""
    module, manifest = compiled(torch, trained, tmp_path, "--decode")
    graph = str(module.inlined_graph)
    assert graph.count("bmojo_tests::layer_step") == graph.count("running_sets") == 2
    model = imported("torch")
    edge = model.config.layer.window
    tokens = torch.randint(256, (2, edge + 3), dtype=torch.int32)
    agree(torch, model, module, manifest, tokens, edge - 3, 1)


@pytest.mark.torch
@pytest.mark.filterwarnings(*TRACING)
def test_prefill_of_a_run_end_to_end(torch, trained, imported, tmp_path, monkeypatch):
    """In plain PyTorch, since tracing does not see through derivatives of kernels."""
    from neuron import weights

    model = imported("torch")
    monkeypatch.setattr(weights, "load_run", lambda run, implementation, step: model)
    module, manifest = compiled(torch, trained, tmp_path, "--length", "7")
    agree(torch, model, module, manifest, torch.randint(256, (2, 21), dtype=torch.int32), 0, 7)


def test_rows_are_shared_by_the_cores_of_a_logical_one(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
    assert command.main([str(run), "--batch", "3"], StandIn()) == 2
    assert "3 can't be shared by 2" in capsys.readouterr().err
    assert command.main([str(run), "--batch", "2", "--out", str(tmp_path)], StandIn()) == 0


def test_requirements_are_pinned_and_in_no_extra():
    root = Path(__file__).parents[2]
    pins = (root / "neuron" / "requirements.txt").read_text()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    for package in ("neuronx-cc", "torch-neuronx", "nki"):
        assert f"\n{package}==" in pins
        assert not any(line.startswith(package) for line in wanted)
