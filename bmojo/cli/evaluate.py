"""`bmojo eval`."""

import dataclasses
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bmojo.cli.common import (
    Overrides,
    Run,
    Step,
    progress_bar,
    split,
    tell,
    told,
)
from bmojo.cli.evaluate_regret import by_regret, known_source
from bmojo.cli.evaluate_stored import (
    by_drift,
    by_memory,
    by_needles,
    by_rereading,
    haystack_task,
)
from bmojo.cli.stored import Agree, Every, MemoryDir, Nearest, ReadOnly, Threshold
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.evaluation.perplexity import Measured
    from bmojo.experiment import Experiment
    from bmojo.runs import TrainedRun

BATCH_SIZE = 8
SPAN = 6
SEQUENCES = 128


class Kind(enum.StrEnum):
    """What can be measured of a run."""

    PERPLEXITY = "perplexity"
    LENGTH = "length"
    RECALL = "recall"
    RETURNS = "returns"
    HARNESS = "harness"
    NEEDLES = "needles"
    DRIFT = "drift"
    REREADING = "rereading"
    REGRET = "regret"


def evaluate_run(
    run: Run,
    overrides: Overrides = None,
    kinds: Annotated[
        list[Kind] | None,
        typer.Option("--eval", help="What to measure; repeat for more.", show_default=False),
    ] = None,
    contexts: Annotated[
        list[int] | None,
        typer.Option(
            "--context",
            "--length",
            min=1,
            metavar="N",
            help="Length of context, for perplexity, length, regret and returns, which takes the "
            "longest; repeat for more. Default: the powers of two from 512 to 65536; for regret, "
            "1, 4 and 16 times the training length.",
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of .txt, .jsonl (field text) or .npy (token ids) files, for perplexity, "
            "length and returns. Default: the test split of the run's data.",
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of lm-evaluation-harness YAML files."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="B", help="Documents read at the same time.")
    ] = BATCH_SIZE,
    span: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="For returns: tokens that must come back before the one that is measured. 6 suits "
            "bytes, 1 or 2 a large vocabulary.",
        ),
    ] = SPAN,
    memory_dir: MemoryDir = None,
    read_only: ReadOnly = False,
    every: Every = None,
    nearest: Nearest = 2,
    agree: Agree = 0,
    threshold: Threshold = 1.0,
    streams: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="For needles and drift: streams of each length."),
    ] = 4,
    sequences: Annotated[
        int, typer.Option(min=1, metavar="N", help="For regret: sequences that are measured.")
    ] = SEQUENCES,
    step: Step = None,
) -> None:
    """Measure the newest checkpoint of a run, or that of --step.

    Without --eval: accuracy in the evaluations of its config. With it, results and figures are
    also kept in RUN/evaluation:

    \b
      perplexity  loss, perplexity and bits per byte by length of context, loss by position
      length      loss by position, and its change beyond the training length
      recall      accuracy by number of pairs, and by distance from the pair to its query
      returns     loss on what the training text has not and the text before has, by distance
      harness     the tasks of --tasks, by lm-evaluation-harness (pip install 'bmojo[eval]')
      needles     32 facts, then filler of each --length, then questions: with a store and without
      drift       facts whose values change, asked for their last one: by half-life of the store
      rereading   loss of a chapter of --length tokens read twice with a store, and of another one
      regret      bits above the best known predictor, on the tasks that have one

    Documents are read through the model's state in segments, so that memory does not grow
    with their length (but for full attention) and nothing is cut off. With --memory, perplexity
    reads documents one after the other, and each may remember those before it; needles, drift
    and rereading make stores of their own and throw them away.

    \b
    Examples:
      bmojo eval runs/quickstart
      bmojo eval runs/quickstart recall/MQAR.length=512 Evaluation.batches=8
      bmojo eval runs/quickstart --eval recall
      bmojo eval runs/prose --eval perplexity --eval length --documents books --context 4096
      bmojo eval runs/prose --eval returns --context 8192
      bmojo eval runs/prose --eval harness --tasks my_tasks
      bmojo eval runs/prose --eval perplexity --documents books --memory read
      bmojo eval runs/needles/bmojo --eval needles --length 1000 --length 100000
      bmojo eval runs/solomonoff/markov/bmojo-seed0 --eval regret --length 256 --length 1024
    """
    with told():
        from bmojo.runs import open_run

        bindings, overlays = split(overrides)
        loaded = open_run(run, step, bindings, overlays)
        experiment = loaded.experiment
        wanted = list(dict.fromkeys(kinds or ()))
        if not experiment.evaluations and (not wanted or Kind.RECALL in wanted):
            raise UserError(
                f"{run}: its config has no evaluations; add one, such as "
                "'Experiment.evaluations=(@Evaluation(),)'"
            )
        if Kind.RECALL in wanted:
            _refuse_text(experiment)
        if Kind.REGRET in wanted:
            known_source(run, experiment)
        if Kind.HARNESS in wanted:
            _check_tasks(run, experiment, tasks)
        if memory_dir is not None and Kind.PERPLEXITY not in wanted:
            raise UserError("--memory: goes with --eval perplexity; name that, or leave it out")
        if read_only and memory_dir is None:
            raise UserError("--memory-read-only: there is no store; name one with --memory DIR")
        if {Kind.NEEDLES, Kind.DRIFT} & set(wanted):
            haystack_task(run, experiment)
        texts = None
        if Kind.RETURNS in wanted:
            training_documents(run, experiment)
        if {Kind.PERPLEXITY, Kind.LENGTH, Kind.RETURNS, Kind.REREADING} & set(wanted):
            texts = _documents(experiment, documents)
        from bmojo.evaluation.recall import evaluate
        from bmojo.experiment import prepare_data
        from bmojo.session import Use
        from bmojo.training.cache import use_compilation_cache
        from bmojo.training.report import result_tables

        prepare_data(experiment, training=False)
        if experiment.trainer.compilation_cache:
            use_compilation_cache()
        console = Console()
        console.print(f"{run}, step {loaded.step}", highlight=False, soft_wrap=True)
        if not wanted:
            batches = sum(evaluation.batches for evaluation in experiment.evaluations)
            with progress_bar("measuring", batches) as done:
                rows = evaluate(loaded.model, experiment.evaluations, done)
            for table in result_tables(rows, experiment.evaluations):
                console.print(table)
        use = Use(every, nearest, threshold=threshold, agree=agree)
        if memory_dir is not None and texts is not None:
            mine = dataclasses.replace(use, write=not read_only)
            by_memory(console, run, experiment, loaded, texts, memory_dir, mine)
            wanted.remove(Kind.PERPLEXITY)
        if Kind.REREADING in wanted and texts is not None:
            by_rereading(console, run, loaded, texts, contexts, use)
        if Kind.NEEDLES in wanted:
            by_needles(console, run, experiment, loaded, contexts, streams, use)
        if Kind.DRIFT in wanted:
            by_drift(console, run, experiment, loaded, contexts, streams, use)
        if texts is not None and {Kind.PERPLEXITY, Kind.LENGTH, Kind.RETURNS} & set(wanted):
            found = by_documents(
                console, run, experiment, loaded, texts, wanted, contexts, batch_size
            )
            if Kind.RETURNS in wanted:
                by_returns(console, run, experiment, loaded, found, span)
        if Kind.RECALL in wanted:
            by_recall(console, run, experiment, loaded)
        if Kind.REGRET in wanted:
            by_regret(console, run, experiment, loaded, contexts, sequences, batch_size)
        if Kind.HARNESS in wanted and tasks is not None:
            by_harness(console, run, experiment, loaded, tasks, batch_size)


def by_documents(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "TrainedRun",
    texts: Sequence[Any],
    wanted: Sequence[Kind],
    contexts: Sequence[int] | None,
    batch_size: int,
) -> "Measured":
    """Loss by context and by position, from one pass; and all the losses."""
    from bmojo.evaluation.documents import run_tokenizer
    from bmojo.evaluation.outputs import context_table, plot_positions, position_table, save
    from bmojo.evaluation.perplexity import CONTEXTS, by_context, by_position, measure

    contexts = sorted(set(contexts or CONTEXTS))
    trained = max(stage.data.length for stage in experiment.curriculum)
    decode = getattr(run_tokenizer(experiment), "decode_bytes", None)
    with progress_bar("reading", sum(max(len(text) - 1, 0) for text in texts)) as done:
        found = measure(
            loaded.model,
            texts,
            contexts[-1],
            batch_size=batch_size,
            decode_bytes=decode,
            progress=done,
        )
    facts = {
        "step": loaded.step,
        "documents": len(texts),
        "longest_context": contexts[-1],
        "training_length": trained,
    }
    if Kind.PERPLEXITY in wanted:
        rows, positions = by_context(found, contexts), by_position(found)
        console.print(context_table(rows))
        results = {**facts, "contexts": rows, "positions": positions}
        tell(console, save(run, "perplexity", results, plot_positions(positions)))
    if Kind.LENGTH in wanted:
        positions = by_position(found, trained)
        console.print(position_table(positions))
        figure = plot_positions(positions, trained)
        tell(console, save(run, "length", {**facts, "positions": positions}, figure))
    return found


def by_returns(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "TrainedRun",
    found: "Measured",
    span: int,
) -> None:
    """Loss on what comes back."""
    from bmojo.evaluation.outputs import plot_returns, returns_table, save
    from bmojo.evaluation.repeated_ngrams import by_return, known_spans

    training = training_documents(run, experiment)
    with progress_bar("reading the training text", sum(map(len, training))) as done:
        known = known_spans(training, span, done)
    rows = by_return(found.windows, found.losses, known, span)
    console.print(returns_table(rows, span))
    longest = max(map(len, found.losses))
    facts = {"step": loaded.step, "windows": len(found.windows), "longest": longest, "span": span}
    tell(console, save(run, "returns", {**facts, "rows": rows}, plot_returns(rows)))


def training_documents(run: Path, experiment: "Experiment") -> Sequence[Any]:
    """The documents that the run's last stage was trained on."""
    find = getattr(experiment.curriculum[-1].data, "documents", None)
    if not callable(find):
        raise UserError(
            f"--eval returns: {run} was not trained on text, so that there is no training text "
            "to compare with; take --eval recall"
        )
    return find("train")


def by_recall(console: Console, run: Path, experiment: "Experiment", loaded: "TrainedRun") -> None:
    """Accuracy by group and by distance."""
    from bmojo.evaluation.outputs import plot_recall, recall_table, save
    from bmojo.evaluation.recall import evaluate_recall
    from bmojo.training.report import accuracy_table, chance, slice_name

    evaluations = experiment.evaluations
    with progress_bar("recalling", sum(e.batches for e in evaluations)) as done:
        groups, distances = evaluate_recall(loaded.model, evaluations, done)
    console.print(accuracy_table(groups, evaluations))
    title = "accuracy by tokens from the pair to its query, at least"
    console.print(recall_table(distances, "distance", title))
    levels = [level for level in map(chance, evaluations) if level is not None]
    names = " / ".join(dict.fromkeys(slice_name(e) or "group" for e in evaluations))
    results = {"step": loaded.step, "groups": groups, "distances": distances}
    tell(console, save(run, "recall", results, plot_recall(groups, distances, names, levels)))


def by_harness(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "TrainedRun",
    tasks: Path,
    batch_size: int,
) -> None:
    """The tasks of a folder."""
    from rich.table import Table

    from bmojo.evaluation.documents import run_tokenizer
    from bmojo.evaluation.outputs import save

    tokenizer = run_tokenizer(experiment)
    try:
        from bmojo.evaluation.harness import HarnessModel, run_tasks
    except ImportError as error:
        raise UserError(
            f"--eval harness: lm-eval is not installed ({error}); pip install 'bmojo[eval]'"
        ) from None
    with progress_bar("harness", None) as done:
        lm = HarnessModel(loaded.model, tokenizer, batch_size=batch_size, progress=done)
        results = run_tasks(lm, tasks)
    table = Table(title="lm-evaluation-harness")
    for name in ("task", "metric", "value"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for task, metrics in results.items():
        for metric, value in metrics.items():
            table.add_row(task, metric, f"{value:,.4f}")
    console.print(table)
    tell(console, save(run, "harness", {"step": loaded.step, "tasks": results}))


def _documents(experiment: "Experiment", folder: Path | None) -> Sequence[Any]:
    from bmojo.evaluation.documents import read_documents, run_documents, run_tokenizer

    if folder is None:
        return list(run_documents(experiment))
    return read_documents(folder, run_tokenizer(experiment), experiment.model.vocab_size)


def _refuse_text(experiment: "Experiment") -> None:
    for evaluation in experiment.evaluations:
        if getattr(evaluation.data, "documents", None) is not None:
            raise UserError(
                f"--eval recall: the evaluation {evaluation.name!r} reads text, in which there are "
                "no pairs to recall; take --eval perplexity, or evaluate a synthetic task"
            )


def _check_tasks(run: Path, experiment: "Experiment", tasks: Path | None) -> None:
    from bmojo.evaluation.documents import run_tokenizer

    if tasks is None:
        raise UserError("--tasks: the harness needs tasks; name a folder of its YAML files")
    if run_tokenizer(experiment) is None:
        raise UserError(f"{run}: it was trained on a task without text; the harness needs a text")
    if not any(tasks.rglob("*.yaml")):
        raise UserError(f"{tasks}: no tasks are here; give a folder of the harness's YAML files")
