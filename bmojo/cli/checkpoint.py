"""`bmojo checkpoint`: list, verification and export of the checkpoints of a run."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bmojo.cli.common import EXIT_CODES, Run, Step, make_app, option
from bmojo.console import make_console, make_table, progress_bar
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.runs import TrainedRun
    from bmojo.training.checkpoints import Entry

app = make_app("List, verify and export the checkpoints of a run.")
DAMAGED = 1
VERIFY_EXIT_CODES = f"""{EXIT_CODES}
  1         a file has changed since it was written; the line names it"""

Format = Literal["safetensors", "huggingface"]


@app.command(name="ls", epilog=EXIT_CODES)
def list_checkpoints(run: Run) -> None:
    """Show the checkpoints of a run: step, time, size, tokens read, loss, evaluations.

    In the column "files", whole means that names and sizes are as they were written, which
    reads nothing; bmojo checkpoint verify reads everything.
    """
    from bmojo.runs import open_run
    from bmojo.training.checkpoints import inventory
    from bmojo.training.experiment import Curriculum
    from bmojo.training.metrics import best_of, verify_metrics
    from bmojo.training.run_dir import RunDir, RunError

    directory, experiment = RunDir(run), open_run(run).experiment
    best = None
    try:
        verify_metrics(directory)
        best = best_of(directory, experiment.trainer.best).step
    except RunError as error:
        typer.echo(f"bmojo: warning: {error}", err=True)
    plan = Curriculum(experiment.curriculum, experiment.trainer.segments_per_document)
    rows = [
        (
            f"{entry.step:,}" + (" best" if entry.step == best else ""),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.when)),
            f"{entry.bytes / 1e6:,.1f}",
            f"{plan.tokens(entry.step):,}",
            _state(entry),
            "" if entry.loss is None else f"{entry.loss:.4f}",
            _measured(entry),
        )
        for entry in inventory(directory)
    ]
    columns = ("step", "written", "MB", "tokens", "files", "loss", "evaluations")
    table = make_table(str(run), columns, rows, left := ("files", "evaluations"))
    for column in table.columns:
        column.no_wrap = column.header not in left
    make_console().print(table)


@app.command(epilog=VERIFY_EXIT_CODES)
def verify(
    run: Run, step: Annotated[int | None, option("N", "Only this checkpoint. Default: all.")] = None
) -> None:
    """Read all files of checkpoints and compare them with the hashes that were written."""
    from bmojo.runs import open_run
    from bmojo.training import hashes
    from bmojo.training.checkpoints import steps_of
    from bmojo.training.run_dir import RunDir

    directory = RunDir(open_run(run).path).checkpoints
    steps = steps_of(directory)
    if step is not None and step not in steps:
        raise UserError(
            f"--step: {run} has no checkpoint of step {step}; take one of "
            f"{', '.join(map(str, steps))}"
        )
    damaged = False
    for number in steps if step is None else [step]:
        path = directory / str(number)
        total = hashes.size(path)
        with progress_bar(f"step {number}", total) as done:
            problems = hashes.changes(path, done)
        found = [f"{total / 1e6:,.1f} MB, all as it was written"]
        if problems is None:
            found = ["has no hashes, so that there is nothing to compare"]
        elif problems:
            damaged, found = True, [f"{path}/{problem}" for problem in problems]
        for text in found:
            typer.echo(f"step {number}: {text}")
    if damaged:
        raise typer.Exit(DAMAGED)


@app.command(epilog=EXIT_CODES)
def export(
    run: Run,
    to: Annotated[Path, option("DIR", "The folder to make.")],
    step: Step = None,
    format: Annotated[Format, option(None, "Names and layout.")] = "safetensors",
) -> None:
    """Write the model of a checkpoint in files that other programs read.

    \b
      safetensors  model.safetensors with the names that bmojo uses, config.json with the whole
                   config, and the tokenizer's file if the run has one
      huggingface  a folder that transformers loads as LlamaForCausalLM, or as
                   MistralForCausalLM if attention has a window: for models of rotary attention
                   and MLP alone

    Needs pip install 'bmojo[export]'.

    \b
    Examples:
      bmojo checkpoint export runs/quickstart --to quickstart
      bmojo checkpoint export runs/prose --to prose --step best --format huggingface
    """
    from bmojo.runs import open_run

    opened = open_run(run, step)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to: {to} is there already; name a new folder")
    to = to.absolute()
    temporary = to.with_name(f".{to.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        found = _write(opened, format, temporary)
        os.replace(temporary, to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    typer.echo(f"{to}: the model of step {found}")


def _write(run: "TrainedRun", format: Format, folder: Path) -> int:
    """Write all files of an export; the step of the checkpoint."""
    from bmojo.export import llama, tensors
    from bmojo.training.run_dir import RunDir

    model, tokenizer = run.experiment.model, run.tokenizer
    weights = folder / "model.safetensors"
    config: dict[str, Any]
    if format == "huggingface":
        length = max(stage.data.length for stage in run.experiment.curriculum)
        eos = None if tokenizer is None else int(tokenizer.eos)
        config = llama.huggingface_config(model, run.outline[1], length, eos)
        tensors.write(weights, llama.huggingface_parameters(model, run.parameters), "format", "pt")
    else:
        gin = RunDir(run.path).config.read_text(encoding="utf8")
        config = {"program": "bmojo", "gin": gin, "step": run.step}
        tensors.write(weights, run.parameters, "step", str(run.step))
    kind = str(getattr(tokenizer, "spec", "")).partition(":")[0]
    file = {"tokenizers": "tokenizer.json", "sentencepiece": "tokenizer.model"}.get(kind)
    content = getattr(tokenizer, "content", None)
    if file is not None and content is not None:
        (folder / file).write_bytes(content)
    if tokenizer is not None and format == "safetensors":
        eos = getattr(tokenizer, "eos", None)
        config["tokenizer"] = {"kind": kind, "file": file, "eos": eos}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    return run.step


def _state(entry: "Entry") -> str:
    if entry.problems is None:
        return "no hashes"
    return "damaged: " + entry.problems[0] if entry.problems else "whole"


def _measured(entry: "Entry") -> str:
    words = []
    for row in entry.evaluations:
        bits = row.get("bits_per_byte")
        number = f"accuracy {row['accuracy']:.3f}" if bits is None else f"{bits:.3f} bits/byte"
        words.append(f"{row['evaluation']} {number}")
    return ", ".join(words)
