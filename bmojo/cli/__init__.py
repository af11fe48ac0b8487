"""The command line: one module for each command of `bmojo`.

Commands import what they need when they run, so that help comes at once.
"""

from typing import Annotated, Any

import typer

import bmojo
from bmojo.cli.bench import app as bench
from bmojo.cli.checkpoint import app as checkpoint
from bmojo.cli.common import EXIT_CODES
from bmojo.cli.data import app as data
from bmojo.cli.doctor import DOCTOR_EXIT_CODES, doctor
from bmojo.cli.evaluate import evaluate_run
from bmojo.cli.generate import generate
from bmojo.cli.inspect import inspect
from bmojo.cli.memory import app as memory
from bmojo.cli.report import REPORT_EXIT_CODES, report
from bmojo.cli.sweep import SWEEP_EXIT_CODES, sweep
from bmojo.cli.train import train
from bmojo.malloc import restart_with_tunables

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train and study B'MOJO and its relatives: sequence models with exact and fading memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExample:\n  bmojo train configs/experiments/quickstart.gin\n\n{EXIT_CODES}",
)
app.command(epilog=EXIT_CODES)(train)
app.command(name="eval", epilog=EXIT_CODES)(evaluate_run)
app.command(epilog=EXIT_CODES)(generate)
app.command(epilog=EXIT_CODES)(inspect)
app.command(epilog=DOCTOR_EXIT_CODES)(doctor)
app.command(epilog=SWEEP_EXIT_CODES)(sweep)
app.command(epilog=REPORT_EXIT_CODES)(report)
app.add_typer(bench, name="bench")
app.add_typer(data, name="data")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(memory, name="memory")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"bmojo {bmojo.__version__}")
        raise typer.Exit


def main() -> Any:
    """Entry point of the console script."""
    restart_with_tunables()
    return app()
