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
  1         the program crashed; a traceback names the place
  2         the command or the config is wrong; the error names the remedy
  3         the loss became infinite or not a number
  4         the run directory cannot be written, such as when the disk is full
  5         an example of the data cannot be read
  6         another process of the run died or stopped; the same command goes on
  130, 143  interrupted (Ctrl-C, SIGTERM); all is saved, the same command goes on"""

INTERRUPTED = 130


def option(metavar: str | None, help: str, *names: str, **settings: Any) -> Any:
    """An option of a command; ``names`` only where they differ from the parameter's."""
    return typer.Option(*names, metavar=metavar, help=help, **settings)


def argument(metavar: str, help: str) -> Any:
    """An argument of a command."""
    return typer.Argument(metavar=metavar, help=help)


Words = list[str] | None
Numbers = list[int] | None

Config = Annotated[str, argument("CONFIG", "A gin file, or its name under configs/.")]
Run = Annotated[Path, argument("RUN", "A directory that bmojo train made.")]
Step = Annotated[
    str | None,
    option(
        "N|best", "The checkpoint of this step, or of the best evaluation. Default: the newest."
    ),
]
Overrides = Annotated[
    Words,
    argument(
        "[KEY=VALUE | OVERLAY.gin]...",
        "Bindings that override the config, such as Model.d_model=128 or 'short/MQAR.length=64', "
        "and further gin files.",
    ),
]
Coordinator = Annotated[
    str | None,
    option(
        "HOST:PORT",
        "Address of the first of several processes. Not needed under Slurm (srun), Open MPI "
        "(mpirun) and on TPU slices.",
    ),
]
NumProcesses = Annotated[int | None, option("N", "Number of processes.")]
ProcessId = Annotated[int | None, option("I", "Index of this process, from 0.")]
Distributed = Annotated[
    bool | None,
    option(
        None,
        "Find the other processes through the scheduler, or ignore it. Default: found if it "
        "started several.",
        "--distributed/--alone",
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
