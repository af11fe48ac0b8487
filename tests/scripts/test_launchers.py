"""Launchers on clusters: that they parse, and that the commands they give are commands of bmojo.

Schedulers, gcloud and bmojo are stand-ins that write their words down.
"""

import os
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from bmojo.cli import app

SCRIPTS = Path(__file__).parents[2] / "scripts"
SLURM = SCRIPTS / "slurm" / "train.sbatch"
POD = SCRIPTS / "tpu_pod" / "train.sh"
JOB = SCRIPTS / "gke" / "train.yaml"
CONFIG = ["experiments/text.gin", "Mesh.fsdp=8", "Text.tokenizer='a b'"]
LOGGED = """printf '%s\\0' {name} "$@" >> "$LOG"; printf '\\036' >> "$LOG"\n"""


@pytest.fixture
def shell(tmp_path):
    """Run bash with stand-ins; the exit code, what was called, and standard error."""
    tools = tmp_path / "bin"
    tools.mkdir()
    bodies = {
        "bmojo": '[[ "$1" == train ]] && exit "${TRAIN:-0}"; exit "${DOCTOR:-0}"',
        "srun": 'while [[ "$1" == --* ]]; do shift; done; "$@"',
        "scontrol": "true",
        "gcloud": 'for word in "$@"; do :; done; bash -c "${word#--command=}\nwait"',
    }
    for name, body in bodies.items():
        (tools / name).write_text(f"#!/bin/bash\n{LOGGED.format(name=name)}{body}\n")
        (tools / name).chmod(0o755)
    venv = tmp_path / "home" / "bmojo-venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").touch()

    def run(*words, **variables):
        log = tmp_path / "log"
        log.write_text("")
        known = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(log), "VENV": ""}
        done = subprocess.run(
            ["bash", *map(str, words)],
            cwd=tmp_path,
            env={**known, "HOME": str(tmp_path / "home"), **variables},
            capture_output=True,
            text=True,
        )
        calls = [line.split("\0")[:-1] for line in log.read_text().split("\036") if line]
        return done.returncode, calls, done.stderr

    return run


def options(calls, command):
    """What bmojo would understand of its one call of this command."""
    (words,) = [call[2:] for call in calls if call[:2] == ["bmojo", command]]
    made = typer.main.get_command(app).commands[command].make_context(command, words)
    return made.params


def as_given(found, mesh="Experiment.mesh=@Mesh()"):
    assert found["config"] == CONFIG[0]
    assert found["overrides"] == [mesh, *CONFIG[1:]]


@pytest.mark.parametrize("path", [SLURM, POD])
def test_bash_parses_it(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_slurm_looks_and_trains(shell, tmp_path):
    run = tmp_path / "shared" / "a run"
    code, calls, error = shell(SLURM, *CONFIG, RUN=str(run))
    assert code == 0, error
    as_given(options(calls, "doctor"))
    assert options(calls, "doctor")["out"] == run.with_name("a run.preflight.json")
    trained = options(calls, "train")
    as_given(trained)
    assert (trained["run_dir"], trained["max_restarts"]) == (run, 20)
    assert run.parent.is_dir() and (run.parent / "a run.cache").is_dir()


def test_slurm_does_not_train_what_does_not_fit(shell):
    code, calls, _ = shell(SLURM, *CONFIG, RUN="run", DOCTOR="1")
    assert code == 1 and not any(call[:2] == ["bmojo", "train"] for call in calls)


@pytest.mark.parametrize(
    ("ended", "count", "again"),
    [("143", "", True), ("143", "99", True), ("2", "", False), ("0", "", False), ("6", "", False),
     ("137", "", True), ("137", "4", True), ("137", "5", False)],
)  # fmt: skip
def test_slurm_queues_what_ran_out_of_time_or_was_killed(shell, ended, count, again):
    numbers = {"TRAIN": ended, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": count, "RESTARTS": "5"}
    code, calls, _ = shell(SLURM, *CONFIG, RUN="run", **numbers)
    assert code == int(ended)
    assert (["scontrol", "requeue", "17"] in calls) == again


@pytest.mark.parametrize(
    ("words", "variables", "missing"),
    [([SLURM, *CONFIG], {}, "give RUN"), ([SLURM], {"RUN": "run"}, "give a config")],
)
def test_slurm_asks_for_what_is_missing(shell, words, variables, missing):
    code, calls, error = shell(*words, **variables)
    assert code != 0 and missing in error and not calls


def test_all_workers_of_a_slice_look_and_train(shell, tmp_path):
    run, source = tmp_path / "disk" / "a run", tmp_path / "disk" / "bmojo-source"
    source.mkdir(parents=True)
    where = {"TPU": "slice", "ZONE": "zone", "RUN": str(run)}
    code, calls, error = shell(POD, "train", *CONFIG, **where)
    assert code == 0, error
    for command in ("doctor", "train"):
        found = options(calls, command)
        as_given(found)
        assert found["distributed"] is True
    assert (found["run_dir"], found["max_restarts"]) == (run, 20)
    assert (tmp_path / "home" / "bmojo.pid").read_text().strip().isdecimal()
    remote = [call for call in calls if call[0] == "gcloud"]
    assert all("--worker=all" in call and "--zone=zone" in call for call in remote)
    code, calls, _ = shell(POD, "train", *CONFIG, **where, DOCTOR="1")
    assert code == 1 and not any(call[:2] == ["bmojo", "train"] for call in calls)


@pytest.fixture(scope="module")
def job():
    service, job = yaml.safe_load_all(JOB.read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    return service, job


def test_the_pods_of_a_job_find_each_other(job):
    service, made = job
    spec, name = made["spec"], made["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(variables["PROCESSES"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert f"first={name}-0.{pod['subdomain']}\n" in container["command"][2]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    (fail,) = [r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"] if "onExitCodes" in r]
    assert fail["containerName"] == container["name"] and fail["values"] == [2, 3]
    assert pod["restartPolicy"] == "Never"


def test_a_pod_looks_and_trains(job, shell, tmp_path):
    container = job[1]["spec"]["template"]["spec"]["containers"][0]
    words = [*container["command"][1:], *container["args"]]
    where = {"RUN": str(tmp_path / "runs" / "a"), "PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}
    code, calls, error = shell(*words, **where)
    assert code == 0, error
    looked, trained = options(calls, "doctor"), options(calls, "train")
    for found in (looked, trained):
        assert [found["config"], *found["overrides"]] == container["args"]
        assert (found["count"], found["index"]) == (2, 1)
    assert looked["coordinator"] != trained["coordinator"]
    assert trained["run_dir"] == tmp_path / "runs" / "a"


@pytest.mark.parametrize(("doctor", "code"), [("1", 2), ("2", 2), ("6", 6)])
def test_a_pod_does_not_train_what_does_not_fit(job, shell, doctor, code):
    container = job[1]["spec"]["template"]["spec"]["containers"][0]
    words = [*container["command"][1:], *container["args"]]
    where = {"RUN": "runs/a", "PROCESSES": "2", "JOB_COMPLETION_INDEX": "0", "DOCTOR": doctor}
    got, calls, _ = shell(*words, **where)
    assert got == code and len(calls) == 1
