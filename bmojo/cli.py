"""The command line: `bmojo train | eval | inspect`.

Commands import what they need when they run, so that help comes at once.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import bmojo
from bmojo.validation import UserError

if TYPE_CHECKING:
    from bmojo.experiment import Experiment
    from bmojo.model import Description

USER_ERROR = 2
LENGTHS = [2**power for power in range(9, 17)]

EXIT_CODES = """\b
Exit codes:
  0         done, or done before
  2         something in the command or the config has to be mended; the error says what
  3         the loss became infinite or not a number
  130, 143  interrupted (Ctrl-C, SIGTERM); all is saved, the same command goes on"""

app = typer.Typer(
    help="Train and study B'MOJO and its relatives: sequence models with exact and fading memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExample:\n  bmojo train configs/experiments/quickstart.gin\n\n{EXIT_CODES}",
)

Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A gin file, or its name under configs/.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A directory that bmojo train made.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE | OVERLAY.gin]...",
        help="Bindings that override the config, such as Model.d_model=128 or "
        "'short/MQAR.length=64', and further gin files.",
    ),
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"bmojo {bmojo.__version__}")
        raise typer.Exit


@app.command(epilog=EXIT_CODES)
def train(
    config: Config,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where to keep the run. Default: runs/NAME, the config's name, and a short "
            "hash if anything is overridden.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for Trainer.seed=N.", metavar="N")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move a run that is there aside and start over.")
    ] = False,
) -> None:
    r"""Train a model, or go on where an interrupted run stopped.

    The run directory gets the whole config, metrics, checkpoints and plots. Interrupting is
    safe: the same command resumes the run.

    \b
    Examples:
      bmojo train configs/experiments/quickstart.gin
      bmojo train experiments/mqar/mamba.gin Optimizer.learning_rate=1e-3 --seed 1
      bmojo train experiments/quickstart.gin runs/smoke.gin    (a tiny trial of any config)
      bmojo train runs/quickstart/config.gin                   (resume that run)
    """
    with _told():
        bindings, overlays = _split(overrides)
        if seed is not None:
            bindings.append(f"Trainer.seed={seed}")
        directory = run_dir or default_run_dir(config, [*overlays, *bindings])
        from bmojo.experiment import load
        from bmojo.training.loop import train as run

        experiment, text = load(config, bindings, overlays)
        outcome = run(
            experiment.model,
            experiment.optimizer,
            experiment.trainer,
            experiment.curriculum,
            experiment.evaluations,
            str(directory),
            text,
            fresh=fresh,
        )
    raise typer.Exit(outcome.exit_code)


@app.command(name="eval", epilog=EXIT_CODES)
def evaluate(run: Run, overrides: Overrides = None) -> None:
    r"""Measure the newest checkpoint of a run with the evaluations of its config.

    \b
    Examples:
      bmojo eval runs/quickstart
      bmojo eval runs/quickstart recall/MQAR.length=512 Evaluation.batches=8
    """
    with _told():
        experiment = _load(_run_config(run), overrides)
        if not experiment.evaluations:
            raise UserError(
                f"{run}: its config has no evaluations; add one, such as "
                "'Experiment.evaluations=(@Evaluation(),)'"
            )
        from flax import nnx

        from bmojo.training.checkpoint import restore_parameters
        from bmojo.training.measure import measure
        from bmojo.training.parameters import outline
        from bmojo.training.report import accuracy_table
        from bmojo.training.step import make_eval_step

        structure, expected = outline(lambda: experiment.model.make(nnx.Rngs(0)))
        step, parameters = restore_parameters(run / "checkpoints", expected)
        rows = measure(make_eval_step(structure), parameters, experiment.evaluations)
        assert rows is not None  # only a stop request gives up a measurement
        console = Console()
        console.print(f"{run}, step {step}", highlight=False, soft_wrap=True)
        console.print(accuracy_table(rows, experiment.evaluations))


@app.command(epilog=EXIT_CODES)
def inspect(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG|RUN", help="A gin file, or the directory of a run."),
    ],
    overrides: Overrides = None,
    length: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="L", help="Sequence length to count for; repeat for more."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--config", help="Also print every binding in force.")
    ] = False,
) -> None:
    r"""Show what a model costs, without making it: parameters, memory, operations.

    \b
    Examples:
      bmojo inspect configs/experiments/quickstart.gin
      bmojo inspect experiments/mqar/bmojo.gin sizes/130m.gin --length 4096 --length 65536
    """
    with _told():
        path = _run_config(Path(config)) if Path(config).is_dir() else config
        bindings, overlays = _split(overrides)
        from bmojo.experiment import load
        from bmojo.model import describe

        experiment, bound = load(path, bindings, overlays)
        console = Console()
        description = describe(experiment.model)
        console.print(parameter_table(description))
        console.print(length_table(description, length or LENGTHS))
        if text:
            console.print(bound, highlight=False, markup=False, soft_wrap=True)


def parameter_table(description: "Description") -> Table:
    """Parameters and inner widths by part of a model."""
    table = Table(title="parameters")
    table.add_column("part")
    table.add_column("inner widths")
    table.add_column("parameters", justify="right")
    for name, count in description.parts:
        widths = description.widths.get(name, {})
        shown = ", ".join(f"{field} {width}" for field, width in widths.items())
        table.add_row(name, shown, f"{count:,}")
    table.add_section()
    inner = description.parameters - description.embedding_parameters
    table.add_row("without embedding and head", "", f"{inner:,}")
    table.add_row("all", "", f"{description.parameters:,}")
    return table


def length_table(description: "Description", lengths: Sequence[int]) -> Table:
    """Memory of one sequence, and forward operations per token, by its length."""
    table = Table(title="one sequence")
    for name in ("length", "state bytes", "key-value bytes", "forward FLOPs per token"):
        table.add_column(name, justify="right")
    for length in lengths:
        state, key_values = description.memory(length)
        flops = description.flops_per_token(length)
        table.add_row(f"{length:,}", f"{state:,}", f"{key_values:,}", f"{flops:,.0f}")
    return table


def default_run_dir(config: str, overrides: Sequence[str]) -> Path:
    """runs/NAME for a config of that name, with a short hash of what is overridden.

    A run's own config.gin stands for the run: without overrides its directory, with some a
    new one named after it.
    """
    path = Path(config)
    name = path.stem
    if path.name == "config.gin":
        if not overrides:
            return path.parent
        name = path.resolve().parent.name
    if overrides:
        name += "-" + hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
    return Path("runs") / name


def _split(overrides: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Bindings and overlay files."""
    bindings: list[str] = []
    overlays: list[str] = []
    for word in overrides or ():
        is_file = word.endswith(".gin") and "=" not in word
        (overlays if is_file else bindings).append(word)
    return bindings, overlays


def _load(path: str | Path, overrides: Sequence[str] | None) -> "Experiment":
    from bmojo.experiment import load

    bindings, overlays = _split(overrides)
    return load(path, bindings, overlays)[0]


def _run_config(run: Path) -> Path:
    """The config of a run.

    Raises:
      UserError: there is no run.
    """
    path = run / "config.gin"
    if not path.is_file():
        raise UserError(f"{run}: no run is here (no config.gin); train one with bmojo train")
    return path


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell a user's error in one line and exit with 2."""
    try:
        yield
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USER_ERROR) from None


def main() -> Any:
    """Entry point of the console script."""
    return app()
