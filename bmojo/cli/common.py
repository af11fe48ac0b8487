"""Arguments, options, exit codes and errors that commands share."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bmojo.console import progress_bar
from bmojo.errors import UserError

__all__ = ["EXIT_CODES", "INTERRUPTED", "Program", "make_app", "progress_bar", "split", "told"]

EXIT_CODES = """\b
Exit codes:
  0         done, or done before
  1         the program crashed; a traceback says where
  2         the command or the config is wrong; the error names the remedy
  3         the loss became infinite or not a number
  4         the run directory cannot be written, such as when the disk is full
  5         an example of the data cannot be read
  6         another process of the run died or stopped; the same command goes on
  130, 143  interrupted (Ctrl-C, SIGTERM); all is saved, the same command goes on"""

INTERRUPTED = 130

Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A gin file, or its name under configs/.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A directory that bmojo train made.")]
Step = Annotated[
    str | None,
    typer.Option(
        metavar="N|best",
        help="The checkpoint of this step, or of the best evaluation. Default: the newest.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE | OVERLAY.gin]...",
        help="Bindings that override the config, such as Model.d_model=128 or "
        "'short/MQAR.length=64', and further gin files.",
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        help="Address of the first of several processes. Not needed under Slurm (srun), "
        "Open MPI (mpirun) and on TPU slices.",
        metavar="HOST:PORT",
    ),
]
NumProcesses = Annotated[int | None, typer.Option(help="Number of processes.", metavar="N")]
ProcessId = Annotated[int | None, typer.Option(help="Index of this process, from 0.", metavar="I")]
Distributed = Annotated[
    bool | None,
    typer.Option(
        "--distributed/--alone",
        help="Find the other processes through the scheduler, or ignore it. Default: found "
        "if it started several.",
        show_default=False,
    ),
]


class Program(TyperGroup):
    """A group of commands that reports a user's error in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exits with the code of a user's error."""
        with told():
            return super().invoke(ctx)


def make_app(help: str | None = None, **options: Any) -> typer.Typer:
    """A group of commands with a help of plain text."""
    settings: dict[str, Any] = {
        "cls": Program,
        "no_args_is_help": True,
        "add_completion": False,
        "rich_markup_mode": None,
    }
    return typer.Typer(**{**settings, **({"help": help} if help else {}), **options})


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Report a user's error in one line and exit with its code."""
    try:
        yield
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def split(overrides: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Bindings and overlay files."""
    words = list(overrides or ())
    overlays = [word for word in words if word.endswith(".gin") and "=" not in word]
    return [word for word in words if word not in overlays], overlays


def run_config(run: Path) -> Path:
    """The config of a run.

    Raises:
      UserError: there is no run.
    """
    path = run / "config.gin"
    if not path.is_file():
        raise UserError(f"{run}: no run is here (no config.gin); train one with bmojo train")
    return path
