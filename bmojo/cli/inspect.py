"""`bmojo inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bmojo.cli.common import Overrides, progress_bar, run_config, split, told
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.experiment import Experiment
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
        typer.Option(
            min=1,
            metavar="L",
            help="Sequence length to count for; repeat for more. With --memory: tokens of FILE "
            "to read at most.",
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--config", help="Also print every binding in force.")
    ] = False,
    memory: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Show what the trained RUN remembers while it reads this text (for a task "
            "without text: token ids separated by blanks), as a page in RUN/memory.",
        ),
    ] = None,
) -> None:
    """Show what a model costs, without making it: parameters, memory, operations.

    With --memory, what a run's newest checkpoint remembers of a text: innovation, eidetic slots,
    and where attention goes, as a page and figures in RUN/memory/FILE.

    \b
    Examples:
      bmojo inspect configs/experiments/quickstart.gin
      bmojo inspect experiments/mqar.gin models/mamba.gin sizes/130m.gin --length 4096
      bmojo inspect runs/text/bmojo --memory chapter.txt --length 8192
    """
    with told():
        path = run_config(Path(config)) if Path(config).is_dir() else config
        bindings, overlays = split(overrides)
        from bmojo.experiment import load
        from bmojo.model import describe

        if memory is not None and not Path(config).is_dir():
            raise UserError(f"{config}: --memory needs the directory of a trained run")
        if memory is not None and len(length or ()) > 1:
            raise UserError("--length: --memory reads one text; give one length")
        experiment, bound = load(path, bindings, overlays)
        console = Console()
        if memory is not None:
            report = remember(Path(config), experiment, memory, length[0] if length else None)
            console.print(str(report), highlight=False, soft_wrap=True)
            return
        description = describe(experiment.model)
        console.print(parameter_table(description))
        console.print(length_table(description, length or LENGTHS))
        if text:
            console.print(bound, highlight=False, markup=False, soft_wrap=True)


def remember(run: Path, experiment: "Experiment", text: Path, limit: int | None) -> Path:
    """Read a text with a run's newest checkpoint, and write the memory report."""
    import dataclasses

    from flax import nnx

    from bmojo.evaluation.documents import run_tokenizer
    from bmojo.evaluation.memory.report import write
    from bmojo.evaluation.memory.text import pieces, read_tokens
    from bmojo.evaluation.memory.trace import read
    from bmojo.evaluation.recall import load_run
    from bmojo.training.cache import use_compilation_cache

    config = dataclasses.replace(experiment.model, dtype="float32")
    tokenizer = run_tokenizer(experiment)
    tokens = read_tokens(text, tokenizer, config.vocab_size, limit)
    if experiment.trainer.compilation_cache:
        use_compilation_cache()
    loaded = load_run(run, nnx.eval_shape(lambda: config.make(nnx.Rngs(0))), tokenizer)
    with progress_bar("reading", len(tokens)) as done:
        memory = read(loaded.model, tokens, done)
    return write(run, text.name, loaded.step, memory, pieces(tokenizer, tokens))


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
