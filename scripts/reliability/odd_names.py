"""Runs in directories of odd names: saved, stopped, resumed, read in every way, swept.

    python -m scripts.reliability.odd_names [--names 0:40]

For each name a tiny experiment is trained in FOLDER/NAME/NAME, stopped by SIGTERM at step 10 of 16
and resumed by the same command; then checkpoints are listed, verified and exported, the run is
evaluated, continued, inspected and reported, and a sweep of one cell is trained beside it. A step
counts if the command ends with code 0, the files are where they belong, and no error is foreign.
"""

import argparse
import io
import os
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.experiment import load
from bmojo.training.train import train

NAMES = (
    "[a=1]", "b[lr=0.1]", "[x]", "[/x]", "[bold]", "[!a]", "[0-9]", "a\\b", "\\", "\\[a\\]",
    "%", "%s", "100%d", "%20", "#", "a#b", "{}", "{0}", "{name!r}", "{", " ", "a b", " a ", "'",
    "it's", '"', "`a`", "$HOME", "a\nb", "a\tb", "Grüße", "日本", "e\u0301", "*", "a?", "~", "a;b",
    "a=b", "a,b", "-x",
)  # fmt: skip
CONFIG = "experiments/mqar.gin"
TINY = ["models/bmojo.gin", "runs/smoke.gin"]
CHANGES = "Experiment.max_steps=16 recall/Evaluation.batch_size=8 Trainer.eval_every=10".split()


class Stopping(io.StringIO):
    """Output that asks for the end of the process as soon as a step is reported."""

    def write(self, text: str) -> int:
        """Keep the text, then send the signal, whose notice comes here too."""
        before, size = self.getvalue(), super().write(text)
        if "step 10 " in self.getvalue() and "step 10 " not in before:
            os.kill(os.getpid(), signal.SIGTERM)
        return size


def saved(run: Path) -> str:
    """Train until the tenth step is reported; empty if all is well."""
    experiment, text = load(CONFIG, CHANGES, TINY, training=True)
    output = Stopping()
    train(experiment, run, config_text=text, console=Console(file=output, width=1000))
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*"))
    return "" if steps and not (run / "summary.json").exists() else output.getvalue()[-200:]


def said(*arguments: object) -> str:
    """Run a command; what is wrong with its end."""
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    foreign = not isinstance(result.exception, SystemExit | None)
    return f"{result.exception!r} {result.output[-200:]}" if foreign or result.exit_code else ""


def steps(run: Path) -> dict[str, str]:
    """What is wrong with each step of a run's life."""
    found = {"saved": saved(run)}
    found["resumed"] = said("train", CONFIG, *TINY, *CHANGES, "--run-dir", run)
    if not (run / "summary.json").exists():
        found["resumed"] += " there is no summary"
    (ids := run.parent / f"ids {run.name}.txt").write_text("1 2 3 4 5")
    found["listed"] = said("checkpoint", "ls", run) + said("checkpoint", "verify", run)
    found["evaluated"] = said("eval", run) + said("eval", run, "recall")
    found["continued"] = said("generate", run, "--ids", "1 2", "--max-new-tokens", 2)
    found["inspected"] = said("inspect", run) + said("inspect", run, "--memory", ids)
    found["exported"] = said("checkpoint", "export", run, "--to", run.parent / f"to {run.name}")
    found["reported"] = said("report", run, "--out", run.parent / f"report {run.name}")
    sweep = ["Sweep.models=('models/swa.gin',)", "Sweep.seeds=(0,)", "--out", f"{run} sweep"]
    found["swept"] = said("sweep", "sweeps/smoke.gin", *sweep)
    if not list(run.parent.rglob("model.safetensors")):
        found["exported"] += " there is no file"
    return found


def main() -> int:
    """Print a table; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=f"0:{len(NAMES)}", help="first and end of NAMES")
    first, end = map(int, parser.parse_args().names.split(":"))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, name in list(enumerate(NAMES))[first:end]:
            wrong = {s: e for s, e in steps(Path(folder) / name / name).items() if e}
            failed += bool(wrong)
            print(f"{number} {name!r}: {wrong or 'all well'}", flush=True)
    print(f"{end - first} names, {failed} of them failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
