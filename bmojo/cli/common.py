"""Arguments, options, exit codes and errors that commands share."""

import contextlib
import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bmojo.console import lose
from bmojo.errors import UserError, first_line
from bmojo.multihost import cluster

__all__ = ["EXIT_CODES", "INTERRUPTED", "Program", "make_app", "split", "told"]

EXIT_CODES = """\b
Exit codes:
  0         done, or done before
  1         the program crashed; a traceback names the place
  2         the command or the config is wrong; the error names the remedy
  3         the loss became infinite or not a number
  4         the run directory cannot be written, such as when the disk is full
  5         an example of the data cannot be read
  6         another process of the run died or stopped; the same command goes on
  130, 143  interrupted (Ctrl-C, SIGTERM; 129: SIGHUP); all is saved, the same command goes on"""

NOT_WRITTEN, INTERRUPTED = 4, 130


def option(metavar: str | None, help: str, *names: str, **settings: Any) -> Any:
    """An option of a command; ``names`` only where they differ from the parameter's."""
    if metavar in ("DIR", "FILE"):
        settings["parser"] = _path
    return typer.Option(*names, metavar=metavar, help=help, **settings)


def _path(text: str) -> Path:
    if not text:  # a Path of it would be the folder here
        raise typer.BadParameter("the name is empty; give one")
    return Path(text)


def argument(metavar: str, help: str) -> Any:
    """An argument of a command."""
    return typer.Argument(metavar=metavar, help=help)


Words = list[str] | None
Number = int | None
Numbers = list[int] | None
Place = Path | None

Config = Annotated[str, argument("CONFIG", "A gin file, or its name under configs/.")]
Run = Annotated[Path, argument("RUN", "A directory that bmojo train made.")]
Step = Annotated[
    str | None,
    option("N|best", "Step of the checkpoint, or its best evaluation. Default: the newest."),
]
Overrides = Annotated[
    Words,
    argument(
        "[KEY=VALUE | OVERLAY.gin]...",
        "Bindings that override the config, such as Model.d_model=128 or 'short/MQAR.length=64', "
        "and further gin files.",
    ),
]
Options = Mapping[str, tuple[Any, Any, Any]]
"""Type, default and definition of options by the names of their parameters."""


def grouped(name: str, options: Options, make: Callable[..., Any]) -> Any:
    """A decorator: a command gets its parameter ``name`` from options, by ``make(**options)``.

    What ``make`` raises is an error of the command.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            made = make(**{option: given.pop(option) for option in options})
            return command(**given, **{name: made})

        kind = inspect.Parameter.KEYWORD_ONLY
        own = inspect.signature(command, eval_str=True).parameters
        parameters = [own[n].replace(kind=kind) for n in own if n != name]
        for option, (type_, default, definition) in options.items():
            type_ = Annotated[type_, definition]
            parameters.append(inspect.Parameter(option, kind, default=default, annotation=type_))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


PROCESSES: Options = {
    "coordinator": (str | None, None, option(
        "HOST:PORT",
        "Address of the first of several processes. Not needed under Slurm (srun), Open MPI "
        "(mpirun) and on TPU slices.")),
    "count": (int | None, None, option("N", "Number of processes.", "--num-processes")),
    "index": (int | None, None, option("I", "Index of this process, from 0.", "--process-id")),
    "distributed": (bool | None, None, option(
        None,
        "Find the other processes through the scheduler, or ignore it. Default: found if it "
        "started several.", "--distributed/--alone")),
}  # fmt: skip

among_others = grouped("others", PROCESSES, cluster)
"""A command gets ``others``, a :class:`bmojo.multihost.Cluster` or None, from its options."""


class Program(TyperGroup):
    """A group of commands that reports a user's error in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exits with the code of a user's error."""
        with told():
            return super().invoke(ctx)


def make_app(help: str | None = None, **options: Any) -> typer.Typer:
    """A group of commands with a help of plain text."""
    settings: dict[str, Any] = {"cls": Program, "no_args_is_help": True, "add_completion": False}
    settings |= {"help": help} if help else {}
    return typer.Typer(**{**settings, "rich_markup_mode": None, **options})


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Report a user's error in one line and exit with its code."""
    try:
        yield
    except UserError as error:
        code, text = error.exit_code, str(error)
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if (found := _of_the_system(error)) is None:
            raise
        text = found
        code = NOT_WRITTEN if isinstance(error, OSError) else UserError.exit_code
    else:
        return
    typer.echo(f"error: {text}", err=True)
    raise typer.Exit(code)


def _of_the_system(error: Exception) -> str | None:
    """A line on an error of output, encoding, home directory or devices; None for any other."""
    if isinstance(error, OSError) and error.filename is None and error.errno != errno.EPIPE:
        try:
            print(flush=True)  # what could not be written before may be gone
        except OSError:
            lose(sys.stdout)
            return f"standard output cannot be written ({error.strerror}); choose another"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[-40:]!r} cannot be written as {error.encoding}; use other characters"
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "~: there is no such home directory; write the path without it"
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and "jax" in sys.modules:
        try:
            sys.modules["jax"].devices()
        except Exception as problem:
            return f"JAX_PLATFORMS={platforms}: {first_line(problem)}; unset it, or name another"
    return None


def split(overrides: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Bindings and overlay files."""
    words = list(overrides or ())
    overlays = [word for word in words if word.endswith(".gin") and "=" not in word]
    return [word for word in words if word not in overlays], overlays
