"""`bmojo doctor`: what it prints, writes and returns."""

import json

import jax
import pytest

from bmojo.training import machine
from bmojo.training.preflight import Step

CONFIG = ["experiments/mqar.gin", "models/transformer.gin", "runs/smoke.gin", "--no-speed"]
MEMORY = {
    "arguments": 300, "outputs": 200, "aliased": 100, "temporary": 624, "program": 0,
    "together": 1024,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Nothing is compiled, and the cache is empty."""
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("jax.config.update", lambda *_: None)

    def compile(step):
        facts = {"trace_seconds": 1.0, "compile_seconds": 2.0, "flops": 5.0, "memory": MEMORY}
        (tmp_path / "cache" / "jax" / "a-cache").touch()
        return dict(facts)

    monkeypatch.setattr(Step, "compile", compile)


@pytest.fixture
def device_memory(monkeypatch):
    """Let devices tell how much memory they have."""
    devices = machine.devices

    def tell(number):
        monkeypatch.setattr(machine, "devices", lambda p: {**devices(p), "memory_bytes": number})

    return tell


def test_the_machine_alone(bmojo, tmp_path):
    file = tmp_path / "facts.json"
    result = bmojo("doctor", "--mebibytes", "1", "--matrix", "8", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "1, nobody named others; this is 0 on" in result.stdout
    assert "8 x cpu (cpu), 8 a process" in result.stdout
    assert "... collectives along all\n" in result.stderr
    facts = json.loads(file.read_text())
    assert [row["name"] for row in facts["collectives"]] == [
        "all-gather", "reduce-scatter", "all-reduce", "ppermute",
    ]  # fmt: skip
    assert facts["problems"] == [] and "mesh" not in facts


def test_a_config(bmojo, tmp_path, device_memory):
    device_memory(1024)
    file = tmp_path / "facts.json"
    mesh = ["Experiment.mesh=@Mesh()", "Mesh.data=4", "Mesh.fsdp=2"]
    result = bmojo("doctor", *CONFIG, *mesh, "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "data 4 x fsdp 2 x tensor 1 x sequence 1: 8 devices" in result.stdout
    assert "parameters are not cut and lie whole on every device" in result.stdout
    assert "compiling        2.00 s, again from the cache 2.00 s" in result.stdout
    assert "1 KiB together: arguments 300 bytes" in result.stdout
    assert "1 KiB: it fits" in result.stdout and "no problem found" in result.stdout
    facts = json.loads(file.read_text())
    assert facts["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert facts["step"]["memory"] == MEMORY and facts["step"]["was_in_cache"] is False
    again = bmojo("doctor", *CONFIG, *mesh)
    assert "2.00 s (it was in the cache)" in again.stdout


def test_a_step_that_needs_too_much(bmojo, tmp_path, device_memory):
    device_memory(1023)
    file = tmp_path / "facts.json"
    result = bmojo("doctor", *CONFIG, "--json", str(file))
    assert result.exit_code == 1, result.output
    assert "mesh             none: one of 8 devices" in result.stdout
    assert "not cut" not in result.stdout
    problem = "the step takes 1 KiB of each device, which has 1023 bytes; raise Mesh.fsdp"
    assert f"problem: {problem}" in result.stdout
    assert json.loads(file.read_text())["problems"][0].startswith(problem)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["Mesh.data=3"], "Mesh: data 3 x fsdp 1 x tensor 1 x sequence 1 asks for 3 devices"),
        (["Mesh.data=8", "short/Stage.batch_size=12"], "Stage: 12 rows cannot be shared"),
        (["Mesh.tensor=8", "Model.d_model=20"], "Mesh.tensor: 8 does not divide the 20 of par"),
    ],
)
def test_a_mesh_that_does_not_fit(bmojo, words, problem):
    result = bmojo("doctor", *CONFIG, "Experiment.mesh=@Mesh()", *words)
    assert result.exit_code == 1, result.output
    assert f"\nproblem: {problem}" in result.stdout
    assert result.stdout.count("problem") == 1


@pytest.mark.parametrize(
    ("error", "mesh", "problem"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ran out of memory\nmore"),
            "Mesh.data=8",
            "the compiler: RESOURCE_EXHAUSTED: ran out of memory; raise Mesh.fsdp or",
        ),
        (ValueError("window: 8 does not divide 12"), "Mesh.sequence=8", "Mesh.sequence: window: 8"),
    ],
)
def test_what_the_compiler_refuses(bmojo, monkeypatch, error, mesh, problem):
    def refuse(step):
        raise error

    monkeypatch.setattr(Step, "compile", refuse)
    result = bmojo("doctor", *CONFIG, "Experiment.mesh=@Mesh()", mesh)
    assert result.exit_code == 1, result.output
    assert f"\nproblem: {problem}" in result.stdout


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("INTERNAL"), ValueError("no")])
def test_a_bug_is_a_traceback(bmojo, monkeypatch, error):
    def fail(step):
        raise error

    monkeypatch.setattr(Step, "compile", fail)
    result = bmojo("doctor", *CONFIG)
    assert result.exit_code == 1 and result.exception is error


def test_a_cache_that_cannot_be_written(bmojo, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "file"))
    result = bmojo("doctor", "--no-speed")
    assert result.exit_code == 1
    assert "compiled programs cannot be kept there (Not a directory)" in result.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["Mesh.data=2"], "CONFIG: 'Mesh.data=2' is a binding"),
        (["absent.gin"], "command line: no config file 'absent.gin'"),
        ([*CONFIG, "Mesh.dat=2"], "command line: Mesh.dat=2: Mesh.dat: Mesh has no parameter"),
        (["--json", "absent/file.json"], "--json: "),
        (["--num-processes", "2"], "--coordinator, --num-processes, --process-id: give all"),
    ],
)
def test_errors_are_one_line(bmojo, words, error):
    result = bmojo("doctor", *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {error}")
    assert result.stderr.count("\n") == 1
