"""Kill runs at random moments, let them go on, and compare them with one that nobody disturbed.

    python -m scripts.reliability.kills [--runs 30] [--seed 0] [--out runs/reliability/kills]

Each run is killed with SIGKILL once: while it starts, between two steps, or while a checkpoint is
being written; then the same command goes on to the end. Its ``metrics.jsonl`` must be that of the
undisturbed run to the byte, and so must be what ``summary.json`` says but for times, command and
revision.
A line for each run, and the verdict, go to standard output and to OUT/kills.log.
"""

import argparse
import collections
import dataclasses
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

SETTINGS = (
    "experiments/mqar.gin",
    "models/swa.gin",
    "runs/smoke.gin",
    "Experiment.curriculum=(@short/Stage(),)",
    "Experiment.max_steps=12",
    "Model.n_layers=1",
    "recall/MQAR.length=64",
    "recall/MQAR.num_pairs=(4,)",
    "Trainer.log_every=1",
    "Trainer.checkpoint_every=1",
    "Trainer.eval_every=5",
    "Trainer.plots=False",
)
"""12 steps, a line and a checkpoint at each of them, an evaluation at every fifth."""
STEPS = 12
VOLATILE = ("wall_seconds", "compile_seconds", "command", "git_revision")
"""What of a summary is not a function of the config."""
PATIENCE = 300.0
POLL_SECONDS = 0.001
STARTING = (0.2, 4.0)
"""Seconds, from and to, of a kill while the program starts."""


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
        """Run to the end; what it said."""
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
    from bmojo.cli.child import be_bmojo

    be_bmojo(["train", *settings, "--run-dir", str(run_dir)])


def output(run_dir: Path) -> Path:
    """Where a run's output is."""
    return run_dir.with_name(f"{run_dir.name}.log")


def said(run_dir: Path) -> str:
    """What the newest process of a run has said."""
    return output(run_dir).read_text()


def result(run_dir: Path) -> tuple[bytes, dict]:
    """What is a function of the config: ``metrics.jsonl``, and the summary without times."""
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


def unfinished(run_dir: Path) -> list[int]:
    """Steps of the checkpoints that were being written."""
    return sorted(int(p.name.split(".")[0]) for p in (run_dir / "checkpoints").glob("*-tmp*"))


def kill(process: BaseProcess, run_dir: Path, kind: str, rng: random.Random) -> None:
    """Kill a run that has just been started: 'start', 'step' or 'write'."""
    if kind == "start":
        time.sleep(rng.uniform(*STARTING))
    elif kind == "step":
        count = rng.randint(1, STEPS)
        wait_for(process, lambda: lines(run_dir) >= count)
        time.sleep(rng.uniform(0, 0.05))
    else:
        step = rng.randint(1, STEPS - 2)
        wait_for(process, lambda: any(there >= step for there in unfinished(run_dir)))
        time.sleep(rng.uniform(0, 0.005))
    process.kill()
    process.join(PATIENCE)


def state(run_dir: Path) -> tuple[int, str]:
    """The step of the last whole line that a dead run has written, and what it was at."""
    path = run_dir / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    steps = [json.loads(line)["step"] for line in whole if line.endswith(b"\n")]
    writing = unfinished(run_dir)
    if writing:
        return max(steps, default=0), f"writing checkpoint {writing[-1]}"
    if not steps:
        return 0, "starting"
    return steps[-1], "between two checkpoints"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/reliability/kills"))
    options = parser.parse_args()
    out = options.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rng = random.Random(options.seed)
    runs = Runs(SETTINGS, out / "cache")
    phases: collections.Counter[str] = collections.Counter()
    same = 0
    with open(out / "kills.log", "w", buffering=1) as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log)

        say(f"bmojo train {' '.join(SETTINGS)}; moments from seed {options.seed}")
        began = time.monotonic()
        runs.finish(out / "straight")
        expected = result(out / "straight")
        for number in range(1, options.runs + 1):
            here = out / f"run{number}"
            kind = rng.choices(("start", "step", "write"), (1, 2, 3))[0]
            process = runs.start(here)
            kill(process, here, kind, rng)
            if process.exitcode != -signal.SIGKILL:
                say(f"run {number}: ended with {process.exitcode} before it was killed")
                continue
            step, phase = state(here)
            going = re.search(r"going on from step (\d+)", runs.finish(here))
            equal = result(here) == expected
            same += equal
            phases[phase.rstrip("0123456789 ")] += 1
            origin = f"from step {going[1]}" if going else "from the beginning"
            verdict = "the same to the byte" if equal else "DIFFERENT"
            say(f"run {number}: killed at step {step}, {phase}; went on {origin}: {verdict}")
            if equal:
                shutil.rmtree(here)
        counted = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
        seconds = time.monotonic() - began
        say(
            f"{same} of {options.runs} killed runs are the same as the undisturbed one "
            f"({counted}); {seconds:.0f} s"
        )
    return 0 if same == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
