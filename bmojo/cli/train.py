"""`bmojo train`."""

import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bmojo.cli.common import Config, Overrides, among_others, option, split
from bmojo.console import line, make_console
from bmojo.errors import UserError
from bmojo.multihost import Cluster
from bmojo.processes import PROGRAM, SUPERVISED


@among_others
def train(
    config: Config,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None,
        option(
            "DIR",
            "Where to keep the run. Default: runs/NAME, the config's name under experiments/, with "
            "the model's name (runs/mqar/mamba), and a short hash if anything else is overridden.",
        ),
    ] = None,
    seed: Annotated[int | None, option("N", "Short for Trainer.seed=N.")] = None,
    fresh: Annotated[bool, option(None, "Move a run aside and start over.", "--fresh")] = False,
    max_restarts: Annotated[
        int, option("N", "Train in a process that is started again when it dies.", min=0)
    ] = 0,
    others: Cluster | None = None,
) -> None:
    """Train a model, or go on where an interrupted run stopped.

    The run directory gets the whole config, metrics, checkpoints and plots. Interrupting is
    safe: the same command resumes the run. With --max-restarts it resumes by itself, after a
    pause of 1, 2, 4 ... 60 s, unless it has died three times in a row at the same step.

    \b
    Examples:
      bmojo train configs/experiments/quickstart.gin
      bmojo train experiments/mqar.gin models/mamba.gin Optimizer.learning_rate=1e-3 --seed 1
      bmojo train experiments/quickstart.gin runs/smoke.gin    (a tiny trial of any config)
      bmojo train runs/quickstart/config.gin                   (resume that run)
      bmojo train runs/quickstart/config.gin Trainer.extra_steps=500   (go on with it)
      bmojo train experiments/text.gin "Trainer.init_from='runs/text/bmojo@400'"
    """
    bindings, overlays = split(overrides)
    if seed is not None:
        bindings.append(f"Trainer.seed={seed}")
    directory = run_dir or default_run_dir(config, overlays, bindings)
    if (max_restarts or others) and not os.environ.get(SUPERVISED):
        from bmojo.cli.supervise import Supervisor

        say = functools.partial(line, make_console(lasting=True, stderr=True))
        several = others is not None
        supervisor = Supervisor(PROGRAM, sys.argv[1:], directory, max_restarts, say, others=several)
        raise typer.Exit(supervisor.run())
    from bmojo.cache import cache_directory
    from bmojo.experiment import load, prepare_data
    from bmojo.malloc import keep_freed_memory
    from bmojo.multihost import start
    from bmojo.training.train import train as run

    cache_directory()
    keep_freed_memory()
    processes = start(others)
    experiment, text = load(config, bindings, overlays, training=True)
    prepare_data(experiment)
    outcome = run(experiment, directory, config_text=text, fresh=fresh, processes=processes)
    raise typer.Exit(outcome.exit_code)


def default_run_dir(config: str, overlays: Sequence[str], bindings: Sequence[str] = ()) -> Path:
    """The directory of a run that is given none.

    For a task under ``experiments/`` it is runs/TASK/MODEL, where the model is the last overlay
    in a folder ``models``, or the file that the task itself includes; for any other config
    runs/NAME, or runs/NAME-MODEL. A short hash stands for all other overrides. A run's own
    config.gin without overrides, or with Trainer.extra_steps alone, means that run.
    """
    from bmojo.config.parse import find, includes

    path = Path(config)
    if not path.name:
        raise UserError(f"CONFIG: {config!r} names no file; give a gin file")
    models = [overlay for overlay in overlays if Path(overlay).parent.name == "models"]
    more = [word for word in bindings if word.startswith("Trainer.extra_steps=")]
    rest = [word for word in [*overlays, *bindings] if word not in models[-1:]]
    name = path.with_suffix("").name
    if path.name == "config.gin":
        if not models and rest == more:
            return path.parent
        name = path.resolve().parent.name
    own = []
    if "experiments" in path.parts:
        name = "/".join(path.with_suffix("").parts[path.parts.index("experiments") + 1 :])
        included = includes(find(config, Path.cwd()))
        own = [file for file in included if Path(file).parent.name == "models"]
    model = Path([*own, *models][-1]).stem if own or models else ""
    name += model and ("/" if own else "-") + model
    if rest:
        name += "-" + hashlib.sha256("\n".join(rest).encode()).hexdigest()[:6]
    return Path("runs") / name
