"""Launchers of jobs on Trainium: that they parse, and that the commands they give exist."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from neuron import compile as command

SCRIPTS = Path(__file__).parents[2] / "scripts" / "trainium"


@pytest.mark.parametrize("name", ["environment.sh", "slurm.sbatch"])
def test_bash_parses_it(name):
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)


def job(tmp_path, *words, **variables):
    """What the Slurm script would run, by a stand-in for srun and python."""
    root = tmp_path / "root"
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "trainium").symlink_to(SCRIPTS)
    (root / "neuron").mkdir()
    (root / "neuron" / "compile.py").touch()
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in (("srun", 'printf "%s\\n" "$@"'), ("python", "true")):
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "slurm.sbatch"), *words],
        cwd=root,
        env={"PATH": f"{tools}:{os.environ['PATH']}", "HOME": "/", "NEURON_VENV": "", **variables},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()[1:], done.stderr


def test_slurm_compiles_a_run(tmp_path):
    code, words, _ = job(tmp_path, RUN="a run", DECODE="1", BATCH="4", TARGET="trn3")
    assert code == 0 and words[:3] == ["python", "-m", "neuron.compile"]
    options = command.parser().parse_args(words[3:])
    assert (options.run, options.batch, options.target) == (Path("a run"), 4, "trn3")
    assert options.decode and options.out is None


def test_slurm_runs_any_command(tmp_path):
    assert job(tmp_path, "python", "-m", "neuron.info")[1] == ["python", "-m", "neuron.info"]


def test_slurm_asks_for_a_run(tmp_path):
    code, _, error = job(tmp_path)
    assert code != 0 and "give RUN" in error


def test_kubernetes_job_compiles_a_run():
    made = yaml.safe_load((SCRIPTS / "eks.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "Job")
    pod = made["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["restartPolicy"] == "OnFailure"
    limits, requests = (container["resources"][kind] for kind in ("limits", "requests"))
    name = "aws.amazon.com/neuron"
    assert limits[name] == requests[name] >= 1
    assert all(isinstance(word, str) for word in container["command"] + container["args"])
    subprocess.run(["bash", "-n", "-c", container["command"][2]], check=True)
    assert container["args"][:3] == ["python", "-m", "neuron.compile"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert command.parser().parse_args(container["args"][3:]).target == variables["TARGET"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
