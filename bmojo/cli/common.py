"""What commands share: arguments, exit codes, and how a user's error is told."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bmojo.errors import UserError

EXIT_CODES = """\b
Exit codes:
  0         done, or done before
  1         the program crashed; a traceback says where
  2         something in the command or the config has to be mended; the error says what
  3         the loss became infinite or not a number
  4         the run directory cannot be written, such as when the disk is full
  5         an example of the data cannot be read
  6         another process of the run died or stopped; the same command goes on
  130, 143  interrupted (Ctrl-C, SIGTERM); all is saved, the same command goes on"""

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


def split(overrides: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Bindings and overlay files."""
    bindings: list[str] = []
    overlays: list[str] = []
    for word in overrides or ():
        is_file = word.endswith(".gin") and "=" not in word
        (overlays if is_file else bindings).append(word)
    return bindings, overlays


def run_config(run: Path) -> Path:
    """The config of a run.

    Raises:
      UserError: there is no run.
    """
    path = run / "config.gin"
    if not path.is_file():
        raise UserError(f"{run}: no run is here (no config.gin); train one with bmojo train")
    return path


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tell a user's error in one line and exit with its code."""
    try:
        yield
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar while something takes its time, if standard error is a terminal.

    Yields:
      A function to be told how much more of ``total`` is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    console = Console(stderr=True)
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def tell(console: Any, path: Path) -> None:
    """Say where results are."""
    for place in (path, path.with_suffix(".png")):
        if place.exists():
            console.print(str(place), highlight=False, soft_wrap=True)
