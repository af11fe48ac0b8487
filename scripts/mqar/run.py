"""Train every cell of the recall study, as many at a time as there are cores.

    python scripts/mqar/run.py [--group main] [--cell bmojo-slots64] [--workers 2] [--list]

Each cell is one `bmojo train` command into runs/mqar/<cell>-seed<K>. Interrupt it at will:
the same command goes on. Finished cells are left alone, and so are those whose results are
recorded in docs/results/mqar.json (see report.py), unless --again is given.
"""

import argparse
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

MODELS = ("bmojo", "bmojo_f", "hybrid", "swa", "mamba", "transformer")
RECORD = Path("docs/results/mqar.json")
EXPERIMENTS = "configs/experiments/mqar"
RANDOM = ["MQAR.filler='random'"]
EQUAL_MEMORY = ["WINDOW=72"]
"""32 tokens of window, 8 fading and 32 eidetic slots, as one window."""


def cells() -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Groups of cells: name -> (model, overrides)."""
    main = {m: (m, []) for m in MODELS}
    slots = {f"bmojo-slots{n}": ("bmojo", [f"BMojo.num_eidetic={n}"]) for n in (8, 16, 64)}
    tokens = {
        f"bmojo-{t}{'' if read else '-unread'}": (
            "bmojo",
            [f"BMojo.tokens='{t}'", f"BMojo.read_fading={read}"],
        )
        for t, read in itertools.product(("ssm", "conv", "input"), (True, False))
        if (t, read) != ("ssm", True)
    }
    memory = {f"{m}-memory": (m, EQUAL_MEMORY) for m in ("hybrid", "swa")}
    random = {f"{m}-random": (m, RANDOM) for m in ("bmojo", "bmojo_f", "hybrid")}
    rates = {
        f"{m}-lr{rate}": (m, [f"Optimizer.learning_rate={rate}"])
        for m, rate in itertools.product(
            ("bmojo", "bmojo_f", "hybrid", "swa", "mamba", "transformer"), (2e-3, 1e-2)
        )
    }
    paragon = {
        "transformer-long": (
            "transformer",
            ["short/Stage.steps=6000", "Optimizer.learning_rate=2e-3"],
        )
    }
    return {
        "main": main,
        "slots": slots,
        "memory": memory,
        "rates": rates,
        "tokens": tokens,
        "random": random,
        "paragon": paragon,
    }


def command(model: str, overrides: list[str], seed: int, run_dir: Path) -> list[str]:
    """The `bmojo train` command of one cell."""
    return [
        str(Path(sys.executable).with_name("bmojo")), "train", f"{EXPERIMENTS}/{model}.gin",
        f"--seed={seed}", f"--run-dir={run_dir}", "recall/Evaluation.batches=8",
        "Trainer.eval_every=400", *overrides,
    ]  # fmt: skip


def main() -> None:
    """Parse arguments and run the cells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", action="append", choices=list(cells()), help="default: all")
    parser.add_argument("--cell", action="append", help="default: all of the groups")
    parser.add_argument("--again", action="store_true", help="run recorded cells too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("runs/mqar"))
    parser.add_argument("--list", action="store_true", help="print the commands only")
    args = parser.parse_args()
    known = RECORD.exists() and not args.again
    recorded = json.loads(RECORD.read_text()) if known else {}
    work: queue.SimpleQueue = queue.SimpleQueue()
    for group in args.group or list(cells()):
        for seed, (name, (model, overrides)) in itertools.product(
            range(args.first_seed, args.first_seed + args.seeds), cells()[group].items()
        ):
            if args.cell and name not in args.cell:
                continue
            run_dir = args.out / f"{name}-seed{seed}"
            line = command(model, overrides, seed, run_dir)
            if args.list:
                print(" ".join(line))
            elif run_dir.name not in recorded and not (run_dir / "summary.json").exists():
                work.put((run_dir, line))
    args.out.mkdir(parents=True, exist_ok=True)

    def worker(core: int) -> None:
        while not work.empty():
            run_dir, line = work.get()
            with open(args.out / f"{run_dir.name}.log", "a") as log:
                pin = ["taskset", "-c", str(core)] if args.workers > 1 else []
                code = subprocess.run([*pin, *line], stdout=log, stderr=log).returncode
            print(
                f"{run_dir.name}: {'done' if code == 0 else f'exit {code}, see its log'}",
                flush=True,
            )

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(args.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
