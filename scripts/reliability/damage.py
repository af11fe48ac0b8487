"""A tiny run whose newest checkpoint is damaged, and what becomes of it."""

import io
import shutil
from pathlib import Path

from rich.console import Console

from bmojo.data.mqar import MQARConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.model import ModelConfig
from bmojo.training import hashes
from bmojo.training.config import OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment
from bmojo.training.train import train

STEPS, EVERY, KEPT = 6, 2, 3
KINDS = ("truncated", "flipped", "removed", "renamed")


def run(directory: Path) -> str:
    """Train, or resume, in a directory; the output."""
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
    """Damage a file in one of the :data:`KINDS`."""
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
