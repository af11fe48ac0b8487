"""`bmojo inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bmojo.cli.common import Overrides, run_config, split, told

if TYPE_CHECKING:
    from bmojo.model import Description

LENGTHS = [2**power for power in range(9, 17)]


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
    """Show what a model costs, without making it: parameters, memory, operations.

    \b
    Examples:
      bmojo inspect configs/experiments/quickstart.gin
      bmojo inspect experiments/mqar/bmojo.gin sizes/130m.gin --length 4096 --length 65536
    """
    with told():
        path = run_config(Path(config)) if Path(config).is_dir() else config
        bindings, overlays = split(overrides)
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
