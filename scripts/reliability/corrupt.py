"""Damage every file of a run's newest checkpoint in every way, and see that nothing is lost.

    python -m scripts.reliability.corrupt [--some] [--skip FILES]

A tiny run with three checkpoints is trained once. Then, for each file of the newest checkpoint
and each kind of damage, a copy of the run goes on: it must name the file, use the checkpoint
before, and end with the same metrics to the byte. ``hashes.json`` itself may be absent: then
the checkpoint is accepted once it could be read, and gets its hashes again. --some: every
fourth case only.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bmojo.data.mqar import MQARConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.model import ModelConfig
from bmojo.training.checkpoints import hashes
from bmojo.training.config import OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment
from bmojo.training.train import train

STEPS, EVERY, KEPT = 6, 2, 3
KINDS = ("truncated", "flipped", "removed", "renamed")


def run(directory: Path) -> str:
    """Train, or go on, in a directory; what was said."""
    console = Console(file=io.StringIO(), width=1000)
    trainer = TrainerConfig(
        log_every=1,
        checkpoint_every=EVERY,
        keep=KEPT,
        tensorboard=False,
        compilation_cache=False,
        plots=False,
    )
    stage = Stage(MQARConfig(16, (2,), 32), STEPS, 2)
    model = ModelConfig(32, 4, 1, (MLPConfig(4),))
    experiment = Experiment(model, OptimizerConfig(), trainer, (stage,))
    outcome = train(experiment, directory, config_text="Model.d_model = 4\n", console=console)
    assert outcome.exit_code == 0, outcome.message
    return console.file.getvalue()  # type: ignore[attr-defined]


def files(directory: Path) -> list[str]:
    """The files of the newest checkpoint of a run."""
    newest = directory / "checkpoints" / str(STEPS)
    return sorted(p.relative_to(newest).as_posix() for p in newest.rglob("*") if p.is_file())


def damage(path: Path, kind: str) -> None:
    """Do something to a file that disks, copies and people do."""
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif kind == "removed":
        path.unlink()
    elif kind == "renamed":
        path.rename(path.with_name(path.name + "~"))


def case(straight: Path, here: Path, name: str, kind: str) -> str:
    """Damage a file in a copy of a run and let it go on; 'ok', or what went wrong."""
    shutil.copytree(straight, here)
    (here / "summary.json").unlink()
    damage(here / "checkpoints" / str(STEPS) / name, kind)
    said = run(here)
    if name == hashes.NAME and kind in ("removed", "renamed"):
        if f"the checkpoint of step {STEPS} had no hashes" not in said:
            return "not told"
        if hashes.changes(here / "checkpoints" / str(STEPS)) != []:
            return "no hashes again"
    else:
        if f"the checkpoint of step {STEPS} is damaged (" not in said or name not in said:
            return "not named"
        if f"going on from step {STEPS - EVERY} of {STEPS}" not in said:
            return "not from the one before"
        if not (here / f"unreadable-checkpoint-{STEPS}").is_dir():
            return "not moved aside"
    same = (here / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    return "ok" if same else "other metrics"


def main() -> int:
    """Print a table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--some", action="store_true", help="every fourth case only")
    parser.add_argument("--skip", type=int, default=0, help="files left out, the first ones")
    chosen = parser.parse_args()
    lost = number = 0
    with tempfile.TemporaryDirectory() as folder:
        straight = Path(folder) / "straight"
        run(straight)
        print(f"| file | {' | '.join(KINDS)} |\n| --- |{' --- |' * len(KINDS)}")
        for row, name in list(enumerate(files(straight)))[chosen.skip :]:
            results = []
            for column, kind in enumerate(KINDS):
                if chosen.some and (row + column) % 4:
                    results.append("")
                    continue
                number += 1
                here = Path(folder) / str(number)
                results.append(case(straight, here, name, kind))
                lost += results[-1] != "ok"
                shutil.rmtree(here)
            print(f"| {name} | {' | '.join(results)} |", flush=True)
    print(f"{number} cases, {lost} of them lost something")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
