"""Moments at which a run of 12 steps is killed, and the state that a dead run left."""

import json
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from scripts.reliability.runs import PATIENCE, lines, wait_for

STEPS = 12
STARTING = (0.2, 4.0)
"""Seconds, from and to, of a kill while the program starts."""


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
    """The step of the last whole line that a dead run has written, and its activity."""
    path = run_dir / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    steps = [json.loads(line)["step"] for line in whole if line.endswith(b"\n")]
    writing = unfinished(run_dir)
    if writing:
        return max(steps, default=0), f"writing checkpoint {writing[-1]}"
    if not steps:
        return 0, "starting"
    return steps[-1], "between two checkpoints"
