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
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from scripts.reliability.moments import kill, state
from scripts.reliability.runs import Runs, result

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
