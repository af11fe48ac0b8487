"""Kill one of several processes on this machine, see the others stop, and go on.

    python -m scripts.clusters.processes [--counts 2 4] [--out DIR]

For each number of processes: a run of one process, an undisturbed run of all, and one run for
each process that is killed (SIGKILL) in the middle. Prints how long the others took to stop,
what they said, and whether the run that went on ended with the same bytes of metrics.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIG = """\
Experiment.model = @Model()
Experiment.optimizer = @Optimizer()
Experiment.trainer = @Trainer()
Experiment.curriculum = (@Stage(),)
Experiment.evaluations = (@Evaluation(),)
Model.vocab_size = 64
Model.d_model = 16
Model.n_layers = 1
Model.pattern = (@Attention(), @MLP())
Attention.n_heads = 2
Attention.window = 16
Stage.data = @MQAR()
Stage.steps = 40
Stage.batch_size = 16
MQAR.vocab_size = 64
MQAR.length = 64
MQAR.num_pairs = (4,)
Evaluation.name = 'recall'
Evaluation.data = @MQAR()
Evaluation.batches = 1
Evaluation.batch_size = 12
Trainer.log_every = 1
Trainer.eval_every = 20
Trainer.checkpoint_every = 4
Trainer.tensorboard = False
Trainer.plots = False
"""
MESH = ("Experiment.mesh=@Mesh()", "Mesh.fsdp=2")
DEVICES = 2
LIMIT = 300.0
"""Seconds after which a process that has not ended is killed."""


@dataclasses.dataclass(frozen=True)
class Killed:
    """How the processes ended that were not killed."""

    seconds: float
    codes: list[int]
    lines: list[str]


def start(run: Path, count: int) -> list[subprocess.Popen]:
    """All processes of a run."""
    run.parent.mkdir(parents=True, exist_ok=True)
    config = run.parent / "processes.gin"
    config.write_text(CONFIG)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    words = [
        sys.executable,
        "-m",
        "bmojo.cli",
        "--child",
        "train",
        str(config),
        "--run-dir",
        str(run),
    ]
    if count > 1:
        words += [*MESH, "--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count)]
    started = []
    for index in range(count):
        mine = [*words, "--process-id", str(index)] if count > 1 else words
        log = open(run.parent / f"{run.name}.{index}.log", "ab")  # noqa: SIM115
        started.append(subprocess.Popen(mine, env=environment, stdout=log, stderr=log))
    return started


def finish(processes: list[subprocess.Popen]) -> list[int]:
    """Exit codes, once all have ended."""
    end = time.monotonic() + LIMIT
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            kill(process, signal.SIGKILL)
            codes.append(process.wait())
    return codes


def kill(process: subprocess.Popen, number: int) -> None:
    """Send a signal to the training that a process looks after, or to itself."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]) if children else process.pid, number)


def metrics(run: Path) -> bytes:
    """What a run has written."""
    path = run / "metrics.jsonl"
    return path.read_bytes() if path.exists() else b""


def straight(run: Path, count: int) -> bytes:
    """The metrics of a run that nobody disturbs."""
    codes = finish(start(run, count))
    if any(codes):
        raise SystemExit(f"{run}: ended with {codes}; see {run}.*.log")
    return metrics(run)


resumed = straight


def wait_for(run: Path, step: int) -> None:
    """Until a step is logged."""
    end = time.monotonic() + LIMIT
    while metrics(run).count(b'"stage"') < step:
        if time.monotonic() > end:
            raise SystemExit(f"{run}: step {step} did not come; see {run}.*.log")
        time.sleep(0.02)


def killed(run: Path, count: int, victim: int, step: int) -> Killed:
    """Kill the training of one process once a step is logged; how the others end."""
    started = start(run, count)
    wait_for(run, step)
    kill(started[victim], signal.SIGKILL)
    began = time.monotonic()
    codes = finish(started)
    seconds = time.monotonic() - began
    others = [index for index in range(count) if index != victim]
    lines = []
    for index in others:
        log = (run.parent / f"{run.name}.{index}.log").read_text(errors="replace")
        said = [line for line in log.splitlines() if line.startswith("error:")]
        lines.append(said[-1] if said else "nothing")
    return Killed(seconds, [codes[index] for index in others], lines)


def asked_to_stop(run: Path, count: int, victim: int, step: int) -> list[int]:
    """Send SIGTERM to one process; exit codes of all."""
    started = start(run, count)
    wait_for(run, step)
    kill(started[victim], signal.SIGTERM)
    return finish(started)


def losses(lines: bytes) -> np.ndarray:
    """Of a run's steps."""
    records = map(json.loads, lines.splitlines())
    return np.array([record["loss"] for record in records if "stage" in record])


def main() -> None:
    """Run it all and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="bmojo-processes-"))
    chosen = random.Random(0)
    one = straight(out / "one", 1)
    print(f"1 process: {len(losses(one))} steps", flush=True)
    bad = 0
    for count in args.counts:
        all_of_them = straight(out / f"all-{count}", count)
        apart = np.abs(losses(all_of_them) - losses(one)).max()
        print(f"{count} processes: losses differ by at most {apart:.1e} from one", flush=True)
        for victim in range(count):
            step = chosen.randrange(5, 35)
            run = out / f"killed-{count}-{victim}"
            told = killed(run, count, victim, step)
            same = resumed(run, count) == all_of_them
            bad += not same or told.seconds > 30
            print(
                f"  process {victim} killed after step {step}: the others ended after "
                f"{told.seconds:.1f} s with {told.codes}; resumed, metrics are "
                f"{'the same to the byte' if same else 'DIFFERENT'}\n    {told.lines[-1]}",
                flush=True,
            )
    print("all as it should be" if not bad else f"{bad} not as they should be")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
