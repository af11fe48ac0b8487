"""`bmojo inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bmojo.cli.common import Numbers, Overrides, Place, argument, option, split
from bmojo.console import line, make_console, make_table, progress_bar
from bmojo.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from bmojo.description import Description
    from bmojo.runs import TrainedRun

LENGTHS = [2**power for power in range(9, 17)]


def inspect(
    config: Annotated[str, argument("CONFIG|RUN", "A gin file, or the directory of a run.")],
    overrides: Overrides = None,
    length: Annotated[
        Numbers,
        option("L", "Tokens of a sequence; repeat for more. With --memory: of FILE.", min=1),
    ] = None,
    text: Annotated[bool, option(None, "Also print every binding in force.", "--config")] = False,
    memory: Annotated[
        Place, option("FILE", "Show the memory of RUN while it reads this text, or token ids.")
    ] = None,
) -> None:
    """Show the costs of a model, without making it: parameters, memory, operations.

    With --memory, the memory of a run's newest checkpoint of a text: innovation, eidetic slots,
    and attention by tier, as a page and figures in RUN/memory/FILE.

    \b
    Examples:
      bmojo inspect configs/experiments/quickstart.gin
      bmojo inspect experiments/mqar.gin models/mamba.gin sizes/130m.gin --length 4096
      bmojo inspect runs/text/bmojo --memory chapter.txt --length 8192
    """
    bindings, overlays = split(overrides)
    from bmojo.description import describe
    from bmojo.experiment import load

    if memory is not None and not Path(config).is_dir():
        raise UserError(f"{config}: --memory needs the directory of a trained run")
    if memory is not None and len(length or ()) > 1:
        raise UserError("--length: --memory reads one text; give one length")
    console = make_console()
    if Path(config).is_dir():
        from bmojo.runs import open_run

        dtype = None if memory is None else "float32"
        run = open_run(config, None, bindings, overlays, dtype)
        experiment, bound = run.experiment, run.config_text
    else:
        experiment, bound = load(config, bindings, overlays)
    if memory is not None:
        line(console, remember(run, memory, length[0] if length else None))
        return
    description = describe(experiment.model)
    console.print(parameter_table(description))
    console.print(length_table(description, length or LENGTHS))
    if text:
        line(console, bound)


def remember(run: "TrainedRun", text: Path, limit: int | None) -> Path:
    """Read a text with a run's newest checkpoint, and write the memory report."""
    from bmojo.cache import use_compilation_cache
    from bmojo.data.text.corpus import printable
    from bmojo.evaluation.memory.report import write
    from bmojo.evaluation.memory.text import pieces, read_tokens
    from bmojo.evaluation.memory.trace import read

    tokens = read_tokens(text, run.tokenizer, run.experiment.model.vocab_size, limit)
    if run.experiment.trainer.compilation_cache:
        use_compilation_cache()
    model = run.model
    with progress_bar("reading", len(tokens)) as done:
        memory = read(model, tokens, done)
    return write(run.path, printable(text.name), run.step, memory, pieces(run.tokenizer, tokens))


def parameter_table(description: "Description") -> "Table":
    """Parameters and inner widths by part of a model."""

    def widths(name: str) -> str:
        return ", ".join(f"{k} {width}" for k, width in description.widths.get(name, {}).items())

    inner = description.parameters - description.embedding_parameters
    rows = [
        *((name, widths(name), f"{count:,}") for name, count in description.parts.items()),
        None,
        ("without embedding and head", "", f"{inner:,}"),
        ("all", "", f"{description.parameters:,}"),
    ]
    columns = ("part", "inner widths", "parameters")
    return make_table("parameters", columns, rows, left=columns[:2])


def length_table(description: "Description", lengths: Sequence[int]) -> "Table":
    """Memory of one sequence, and forward operations per token, by its length."""
    rows = [
        [f"{x:,.0f}" for x in (n, *description.memory(n), description.flops_per_token(n))]
        for n in lengths
    ]
    columns = ("length", "state bytes", "key-value bytes", "forward FLOPs per token")
    return make_table("one sequence", columns, rows)
