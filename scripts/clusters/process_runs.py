"""Runs of several processes on this machine, of which one is killed or asked to stop."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from bmojo.processes import PROGRAM

CONFIG = Path(__file__).with_name("processes.gin")
MESH = ("Experiment.mesh=@Mesh()", "Mesh.fsdp=2")
TWO = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
LIMIT = 300.0  # seconds after which a process that has not ended is killed


class Killed(NamedTuple):
    """How the processes ended that were not killed."""

    seconds: float
    codes: list[int]
    lines: list[str]


def start(run: Path, count: int) -> list[subprocess.Popen]:
    """All processes of a run."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    group = [*MESH, "--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count)]
    words = [*PROGRAM, "train", str(CONFIG), "--run-dir", str(run), *group * (count > 1)]
    started = []
    for index in range(count):
        mine = words + ["--process-id", str(index)] * (count > 1)
        with open(run.parent / f"{run.name}.{index}.log", "ab") as log:
            started.append(subprocess.Popen(mine, env=os.environ | TWO, stdout=log, stderr=log))
    return started


def finish(processes: list[subprocess.Popen]) -> list[int]:
    """Exit codes, once all have ended."""
    end = time.monotonic() + LIMIT
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill(process, signal.SIGKILL)
    return [process.wait() for process in processes]


def kill(process: subprocess.Popen, number: int) -> None:
    """Send a signal to the training that a process looks after, or to itself."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int((children.split() or [process.pid])[0]), number)


def metrics(run: Path) -> bytes:
    """What a run has written."""
    return path.read_bytes() if (path := run / "metrics.jsonl").exists() else b""


def straight(run: Path, count: int) -> bytes:
    """The metrics of a run that nobody disturbs."""
    if any(codes := finish(start(run, count))):
        raise SystemExit(f"{run}: ended with {codes}; see {run}.*.log")
    return metrics(run)


def start_and_signal(run: Path, count: int, victim: int, step: int, number: int) -> list:
    """All processes of a run, of which one gets a signal once a step is logged."""
    started, end = start(run, count), time.monotonic() + LIMIT
    while metrics(run).count(b'"stage"') < step:
        time.sleep(0.02)
        if time.monotonic() > end:
            raise SystemExit(f"{run}: step {step} did not come; see {run}.*.log")
    kill(started[victim], number)
    return started


def killed(run: Path, count: int, victim: int, step: int, number: int = signal.SIGKILL) -> Killed:
    """Kill, or with SIGSTOP freeze, the training of one process; how the others end."""
    started = start_and_signal(run, count, victim, step, number)
    began = time.monotonic()
    others = [index for index in range(count) if index != victim]
    finish([started[index] for index in others])
    seconds = time.monotonic() - began
    if number == signal.SIGSTOP:
        kill(started[victim], signal.SIGKILL)
    codes = finish(started)
    logs = [(run.parent / f"{run.name}.{i}.log").read_text(errors="replace") for i in others]
    errors = [["nothing", *re.findall("^error:.*", log, re.MULTILINE)] for log in logs]
    return Killed(seconds, [codes[i] for i in others], [found[-1] for found in errors])


def asked_to_stop(run: Path, count: int, victim: int, step: int) -> list[int]:
    """Send SIGTERM to one process; exit codes of all."""
    return finish(start_and_signal(run, count, victim, step, signal.SIGTERM))
