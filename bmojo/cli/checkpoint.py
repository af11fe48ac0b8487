"""`bmojo checkpoint`: list, verification, export and import of checkpoints."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bmojo.cli.common import EXIT_CODES, Overrides, Run, Step, argument, make_app, option, split
from bmojo.console import make_console, make_table, progress_bar
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.runs import TrainedRun
    from bmojo.training.checkpoints import Entry

app = make_app("List, verify and export the checkpoints of a run; import models as runs.")
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
    trainer = experiment.trainer
    plan = Curriculum(experiment.curriculum, trainer.segments_per_document, trainer.extra_steps)
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
    shard_size: Annotated[
        float, option("GB", "Largest file, with --format huggingface.", min=1e-6)
    ] = 5.0,
) -> None:
    """Write the model of a checkpoint in files that other programs read.

    \b
      safetensors  model.safetensors with the names that bmojo uses, config.json with the whole
                   config, and the tokenizer's file if the run has one
      huggingface  a folder that transformers loads, with tokenizer, generation config and model
                   card: Llama, Mistral, Qwen-2 or Qwen-3 for rotary attention and MLP in turn,
                   Mamba or Mamba-2 for these alone

    The format safetensors needs pip install 'bmojo[export]'.

    \b
    Examples:
      bmojo checkpoint export runs/quickstart --to quickstart
      bmojo checkpoint export runs/prose --to prose --step best --format huggingface
    """
    from bmojo.runs import open_run

    opened = open_run(run, step)
    with _new_folder(to) as folder:
        if format == "huggingface":
            _write_huggingface(opened, folder, round(shard_size * 1e9))
        else:
            _write_safetensors(opened, folder)
    typer.echo(f"{to.absolute()}: the model of step {opened.step}")


@app.command(name="import", epilog=EXIT_CODES)
def import_(
    folder: Annotated[Path, argument("FOLDER", "With config.json and safetensors files.")],
    overrides: Overrides = None,
    *,
    to: Annotated[Path, option("RUN", "The run directory to make.")],
) -> None:
    """Make a run of a model for Hugging Face's transformers, its checkpoint at step 0.

    Llama, Mistral, Qwen-2, Qwen-3, Mamba and Mamba-2; what has no counterpart is refused by its
    name. The run is one for every other command; its config trains on text with the folder's
    tokenizer, unless it is overridden. Parameters keep their dtype, and the memory is that of
    the parameters.

    \b
    Examples:
      bmojo checkpoint import Qwen3-0.6B --to runs/qwen3
      bmojo generate runs/qwen3 --prompt "Once upon a time"
      bmojo checkpoint import Qwen3-0.6B Text.path=books Stage.steps=2000 --to runs/books
      bmojo train runs/books/config.gin
    """
    from bmojo.import_huggingface import import_run

    bindings, overlays = split(overrides)
    with _new_folder(to) as run:
        for text in import_run(folder, run, to.absolute(), bindings, overlays):
            typer.echo(f"{to.absolute()}: {text}")


@contextlib.contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``to``, which must be new or empty, at the end."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to: {to} is there already; name a new folder")
    to = to.absolute()
    temporary = to.with_name(f".{to.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_safetensors(run: "TrainedRun", folder: Path) -> None:
    """Write all files of an export with our names."""
    from bmojo.export import tensors
    from bmojo.training.run_dir import RunDir

    tokenizer = run.tokenizer
    gin = RunDir(run.path).config.read_text(encoding="utf8")
    config: dict[str, Any] = {"program": "bmojo", "gin": gin, "step": run.step}
    weights = folder / "model.safetensors"
    tensors.write(weights, run.parameters, "step", str(run.step))
    kind = str(getattr(tokenizer, "spec", "")).partition(":")[0]
    file = {"tokenizers": "tokenizer.json", "sentencepiece": "tokenizer.model"}.get(kind)
    content = getattr(tokenizer, "content", None)
    if file is not None and content is not None:
        (folder / file).write_bytes(content)
    if tokenizer is not None:
        eos = getattr(tokenizer, "eos", None)
        config["tokenizer"] = {"kind": kind, "file": file, "eos": eos}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")


def _write_huggingface(run: "TrainedRun", folder: Path, shard_bytes: int) -> None:
    """Write all files of an export for transformers."""
    import bmojo
    from bmojo.export import companions, families, huggingface
    from bmojo.training.experiment import Curriculum
    from bmojo.training.metrics import read_metrics
    from bmojo.training.parameters import count
    from bmojo.training.run_dir import RunDir

    model, tokenizer, experiment = run.experiment.model, run.tokenizer, run.experiment
    length = max(stage.data.length for stage in experiment.curriculum)
    eos = None if tokenizer is None else int(tokenizer.eos)
    shapes = run.outline[1]
    like = companions.kept_config(run.path).get("model_type")
    config = families.config_json(model, shapes, length, eos, like)
    huggingface.write_weights(folder, model, run.parameters, shard_bytes)
    config = companions.write_config(folder, run.path, config)
    companions.write_tokenizer(folder, run.path, tokenizer)
    trainer = experiment.trainer
    plan = Curriculum(experiment.curriculum, trainer.segments_per_document, trainer.extra_steps)
    data = [type(stage.data).__name__.removesuffix("Config") for stage in plan.stages]
    history = read_metrics(RunDir(run.path).metrics)
    rows = [r for r in history if r["step"] == run.step and "evaluation" in r]
    card = companions.model_card(
        config,
        parameters=count(shapes),
        step=run.step,
        tokens=plan.tokens(run.step),
        data=list(dict.fromkeys(data)),
        results=[row for row in rows if row["group"] is None],
        version=bmojo.__version__,
    )
    (folder / "README.md").write_text(card, encoding="utf8")


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
