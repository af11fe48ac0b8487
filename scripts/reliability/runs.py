"""Runs of ``bmojo train`` in processes that a script can kill."""

import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

VOLATILE = ("wall_seconds", "compile_seconds", "command", "git_revision")
"""Fields of a summary that are no function of the config."""
PATIENCE = 300.0
POLL_SECONDS = 0.001

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["bmojo.experiment", "bmojo.training.train"])


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of one command, each in a directory of its own and its output beside it.

    Attributes:
      settings: of the experiment.
      cache: of compiled programs, for all of them.
    """

    settings: Sequence[str]
    cache: Path

    def start(self, run_dir: Path) -> BaseProcess:
        """Start ``bmojo train`` in a process that has imported its libraries already."""
        process = SERVER.Process(target=train, args=(self.settings, run_dir, self.cache))
        process.start()
        return process

    def finish(self, run_dir: Path) -> str:
        """Run to the end; the output."""
        process = self.start(run_dir)
        process.join(PATIENCE)
        if process.exitcode != 0:
            raise RuntimeError(f"{run_dir}: exit code {process.exitcode}: {said(run_dir)}")
        return said(run_dir)


def train(settings: Sequence[str], run_dir: Path, cache: Path) -> None:
    """Be ``bmojo train``, with the output in a file."""
    with open(output(run_dir), "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["BMOJO_CACHE_DIR"] = str(cache)
    from bmojo.processes import run_bmojo

    run_bmojo(["train", *settings, "--run-dir", str(run_dir)])


def output(run_dir: Path) -> Path:
    """Where a run's output is."""
    return run_dir.with_name(f"{run_dir.name}.log")


def said(run_dir: Path) -> str:
    """The output of the newest process of a run."""
    return output(run_dir).read_text()


def result(run_dir: Path) -> tuple[bytes, dict]:
    """All that is a function of the config: ``metrics.jsonl``, and the summary without times."""
    summary = json.loads((run_dir / "summary.json").read_text())
    for name in VOLATILE:
        summary.pop(name)
    return (run_dir / "metrics.jsonl").read_bytes(), summary


def lines(run_dir: Path) -> int:
    """Of metrics, so far."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def signal_at(process: BaseProcess, run_dir: Path, count: int, number: int) -> None:
    """Send a signal as soon as the metrics have so many lines, and wait for the end."""
    wait_for(process, lambda: lines(run_dir) >= count)
    os.kill(process.pid, number)
    process.join(PATIENCE)


def wait_for(process: BaseProcess, there: Callable[[], bool]) -> None:
    """Look until something is there; an error if the process ends or takes forever."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        if not process.is_alive():
            raise RuntimeError(f"it ended with {process.exitcode} before it was killed")
        if time.monotonic() > deadline:
            raise TimeoutError("it does not come to the moment at which to kill it")
        time.sleep(POLL_SECONDS)
