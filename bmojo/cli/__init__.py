"""The command line: one module for each command of `bmojo`.

Commands import JAX and the data when they run, so that help appears at once.
"""

import io
import os
import sys
from typing import Annotated, Any

import typer

import bmojo
from bmojo.cli import (
    bench,
    checkpoint,
    data,
    doctor,
    evaluate,
    generate,
    inspect,
    memory,
    report,
    sweep,
    train,
)
from bmojo.cli.common import EXIT_CODES, make_app
from bmojo.malloc import restart_with_tunables

__all__ = ["app", "main"]

app = make_app(
    "Train and study B'MOJO and its relatives: sequence models with exact and fading memory.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExample:\n  bmojo train configs/experiments/quickstart.gin\n\n{EXIT_CODES}",
)
app.command(epilog=EXIT_CODES)(train.train)
app.add_typer(evaluate.app, name="eval")
app.command(epilog=EXIT_CODES)(generate.generate)
app.command(epilog=EXIT_CODES)(inspect.inspect)
app.command(epilog=doctor.DOCTOR_EXIT_CODES)(doctor.doctor)
app.command(epilog=sweep.SWEEP_EXIT_CODES)(sweep.sweep)
app.command(epilog=report.REPORT_EXIT_CODES)(report.report)
for group in (bench, data, checkpoint, memory):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"bmojo {bmojo.__version__}")
        raise typer.Exit


def main() -> Any:
    """Entry point of the console script."""
    # Files that are opened later must not get the numbers to which libraries write.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    restart_with_tunables()
    return app(prog_name="bmojo")
