"""`bmojo eval`: the evaluations of a run's config, or kinds of evaluation by name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli import evaluate_stored
from bmojo.cli.common import (
    EXIT_CODES,
    Numbers,
    Overrides,
    Run,
    Step,
    make_app,
    option,
    progress_bar,
    split,
)
from bmojo.cli.kinds import (
    BatchSize,
    Documents,
    Kind,
    KindGroup,
    Subject,
    length_option,
)
from bmojo.cli.stored import Agree, Every, MemoryDir, Nearest, ReadOnly, Threshold
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.data.universal.sequences import SequenceSource

BATCH_SIZE = 8
SPAN = 6
SEQUENCES = 128

app = make_app(
    cls=KindGroup,
    no_args_is_help=False,
    invoke_without_command=True,
    subcommand_metavar="[KIND... [OPTIONS]]...",
    epilog=EXIT_CODES,
)

Contexts = Annotated[
    Numbers,
    length_option(
        "Length of context; repeat for more. Default: the powers of two from 512 to 65536."
    ),
]


@app.callback()
def evaluate_run(
    context: typer.Context, run: Run, overrides: Overrides = None, step: Step = None
) -> None:
    """Measure the newest checkpoint of a run, or that of --step.

    Without a kind: accuracy in the evaluations of its config. With kinds, results and figures are
    also kept in RUN/evaluation. Options follow the kinds that they are for; bmojo eval RUN KIND
    --help shows them.

    Documents are read through the model's state in segments, so that memory does not grow
    with their length (but for full attention) and nothing is cut off.

    \b
    Examples:
      bmojo eval runs/quickstart
      bmojo eval runs/quickstart recall/MQAR.length=512 Evaluation.batches=8
      bmojo eval runs/quickstart recall
      bmojo eval runs/prose perplexity length --documents books --context 4096
      bmojo eval runs/prose ngrams --context 8192 harness --tasks my_tasks
      bmojo eval runs/prose perplexity --documents books --memory read
      bmojo eval runs/needles/bmojo needles --length 1000 --length 100000
      bmojo eval runs/solomonoff/markov/bmojo-seed0 regret --length 256 --length 1024
    """
    from bmojo.runs import open_run

    bindings, overlays = split(overrides)
    for word in bindings:
        if "=" not in word:
            raise context.command.unknown(word)  # type: ignore[attr-defined]
    context.obj = Subject(open_run(run, step, bindings, overlays))


@app.command()
def perplexity(
    context: typer.Context,
    contexts: Contexts = None,
    documents: Documents = None,
    batch_size: BatchSize = BATCH_SIZE,
    memory_dir: MemoryDir = None,
    read_only: ReadOnly = False,
    every: Every = None,
    nearest: Nearest = 2,
    agree: Agree = 0,
    threshold: Threshold = 1.0,
) -> Kind:
    """Loss, perplexity, bits per byte by context; loss by position.

    With --memory, documents are read whole, one after the other, and each may remember those
    before it.
    """
    subject: Subject = context.obj
    texts = subject.texts(documents)
    if memory_dir is not None:
        from bmojo.session import Use

        use = Use(every, nearest, threshold=threshold, agree=agree, write=not read_only)
        yield
        evaluate_stored.measure_with_store(subject, texts, memory_dir, use)
        return
    if read_only:
        raise UserError("--memory-read-only: there is no store; name one with --memory DIR")

    yield
    from bmojo.evaluation.outputs import context_table, plot_positions
    from bmojo.evaluation.perplexity import CONTEXTS, by_context, by_position

    chosen = sorted(set(contexts or CONTEXTS))
    found = subject.losses(documents, chosen[-1], batch_size)
    rows, positions = by_context(found, chosen), by_position(found)
    facts = _facts(subject, texts, chosen[-1])
    results = {**facts, "contexts": rows, "positions": positions}
    figure = plot_positions(positions)
    subject.report("perplexity", results, context_table(rows), figure=figure)


@app.command()
def length(
    context: typer.Context,
    contexts: Contexts = None,
    documents: Documents = None,
    batch_size: BatchSize = BATCH_SIZE,
) -> Kind:
    """Loss by position, and its change beyond the training length.

    The longest --context counts.
    """
    subject: Subject = context.obj
    texts = subject.texts(documents)

    yield
    from bmojo.evaluation.outputs import plot_positions, position_table
    from bmojo.evaluation.perplexity import CONTEXTS, by_position

    longest, trained = max(contexts or CONTEXTS), subject.training_length
    rows = by_position(subject.losses(documents, longest, batch_size), trained)
    results = {**_facts(subject, texts, longest), "positions": rows}
    figure = plot_positions(rows, trained)
    subject.report("length", results, position_table(rows), figure=figure)


def _facts(subject: Subject, texts: Sequence[Any], longest: int) -> dict[str, Any]:
    return {
        "documents": len(texts),
        "longest_context": longest,
        "training_length": subject.training_length,
    }


@app.command()
def ngrams(
    context: typer.Context,
    contexts: Contexts = None,
    documents: Documents = None,
    batch_size: BatchSize = BATCH_SIZE,
    span: Annotated[
        int,
        option(
            "N",
            "Tokens that must be repeated before the measured one. 6 suits bytes, 1 or 2 a large "
            "vocabulary.",
            min=1,
        ),
    ] = SPAN,
) -> Kind:
    """Loss on n-grams that the text repeats, by distance.

    The n-grams are those that the training text lacks: names, rare words, numbers. The longest
    --context counts.
    """
    subject: Subject = context.obj
    training = training_documents(subject)
    subject.texts(documents)

    yield
    from bmojo.evaluation.outputs import ngram_table, plot_ngrams
    from bmojo.evaluation.perplexity import CONTEXTS
    from bmojo.evaluation.repeated_ngrams import known_ngrams, losses_by_distance

    found = subject.losses(documents, max(contexts or CONTEXTS), batch_size)
    with progress_bar("reading the training text", sum(map(len, training))) as done:
        known = known_ngrams(training, span, done)
    rows = losses_by_distance(found.windows, found.losses, known, span)
    longest = max(map(len, found.losses))
    results = {"windows": len(found.windows), "longest": longest, "span": span, "rows": rows}
    subject.report("ngrams", results, ngram_table(rows, span), figure=plot_ngrams(rows))


def training_documents(subject: Subject) -> Sequence[Any]:
    """The documents of the run's last stage of training."""
    find = getattr(subject.experiment.curriculum[-1].data, "documents", None)
    if not callable(find):
        raise UserError(
            f"ngrams: {subject.run.path} was not trained on text, so that there is no training "
            "text to compare with; take recall"
        )
    subject.run.check_text()
    return find("train")


@app.command()
def recall(context: typer.Context) -> Kind:
    """Accuracy by group, and by distance from pair to query.

    Of the evaluations of the run's config.
    """
    subject: Subject = context.obj
    subject.need_evaluations()
    evaluations = subject.experiment.evaluations
    for evaluation in evaluations:
        if getattr(evaluation.data, "documents", None) is not None:
            raise UserError(
                f"recall: the evaluation {evaluation.name!r} reads text, in which there are no "
                "pairs to recall; take perplexity, or evaluate a synthetic task"
            )

    yield
    from bmojo.evaluation.outputs import plot_recall, recall_table
    from bmojo.evaluation.recall import evaluate_recall
    from bmojo.training.report import accuracy_table, chance, slice_name

    with progress_bar("recalling", sum(e.batches for e in evaluations)) as done:
        groups, distances = evaluate_recall(subject.run.model, evaluations, done)
    title = "accuracy by tokens from the pair to its query, at least"
    tables = (
        accuracy_table(groups, evaluations),
        recall_table(distances, "distance", title),
    )
    levels = [level for level in map(chance, evaluations) if level is not None]
    names = " / ".join(dict.fromkeys(slice_name(e) or "group" for e in evaluations))
    figure = plot_recall(groups, distances, names, levels)
    results = {"groups": groups, "distances": distances}
    subject.report("recall", results, *tables, figure=figure)


@app.command()
def harness(
    context: typer.Context,
    tasks: Annotated[
        Path | None, option("DIR", "Folder of lm-evaluation-harness YAML files.")
    ] = None,
    batch_size: BatchSize = BATCH_SIZE,
) -> Kind:
    """Tasks of a folder, by lm-evaluation-harness.

    Needs pip install 'bmojo[eval]'.
    """
    subject: Subject = context.obj
    if tasks is None:
        raise UserError("--tasks: the harness needs tasks; name a folder of its YAML files")
    if subject.run.tokenizer is None:
        raise UserError(
            f"{subject.run.path}: it was trained on a task without text; the harness needs a text"
        )
    if not any(tasks.rglob("*.yaml")):
        raise UserError(f"{tasks}: no tasks are here; give a folder of the harness's YAML files")

    yield
    from bmojo.console import make_table

    try:
        from bmojo.evaluation.harness import HarnessModel, run_tasks
    except ImportError as error:
        raise UserError(
            f"harness: lm-eval is not installed ({error}); pip install 'bmojo[eval]'"
        ) from None
    run = subject.run
    with progress_bar("harness", None) as done:
        lm = HarnessModel(run.model, run.tokenizer, batch_size=batch_size, progress=done)
        results = run_tasks(lm, tasks)
    rows = [
        (task, metric, f"{value:,.4f}")
        for task, metrics in results.items()
        for metric, value in metrics.items()
    ]
    columns = ("task", "metric", "value")
    table = make_table("lm-evaluation-harness", columns, rows, left=columns[:2])
    subject.report("harness", {"tasks": results}, table)


@app.command()
def regret(
    context: typer.Context,
    lengths: Annotated[
        Numbers,
        length_option(
            "Length of the sequences; repeat for more. Default: 1, 4 and 16 times the training "
            "length."
        ),
    ] = None,
    sequences: Annotated[int, option("N", "Number of sequences.", min=1)] = SEQUENCES,
    batch_size: BatchSize = BATCH_SIZE,
) -> Kind:
    """Bits above the best known predictor.

    By length, complexity and position, on the tasks that have such a predictor.
    """
    subject: Subject = context.obj
    trained = subject.training_length
    chosen = sorted(set(lengths or (trained, 4 * trained, 16 * trained)))
    source = known_source(subject, chosen[-1])

    yield
    from bmojo.evaluation.outputs import plot_regret, regret_table
    from bmojo.evaluation.regret import by_length, by_position, costs

    with progress_bar("reading", sequences * chosen[-1]) as done:
        found = costs(subject.run.model, source, sequences, batch_size=batch_size, progress=done)
    rows, positions = by_length(found, chosen), by_position(found, trained)
    counted = source.config.slices
    facts = {"sequences": sequences, "training_length": trained, "counted": counted}
    figure = plot_regret(rows, positions, counted, trained)
    results = {**facts, "rows": rows, "positions": positions}
    subject.report("regret", results, regret_table(rows, counted), figure=figure)


def known_source(subject: Subject, length: int) -> "SequenceSource":
    """Test sequences of the run's last stage, of another length.

    Raises:
      UserError: the run was trained on a task without a known predictor.
    """
    from bmojo.data.universal.sequences import SequenceSource

    data = subject.experiment.curriculum[-1].data
    source = dataclasses.replace(data, length=length).source(0, "test")
    if not isinstance(source, SequenceSource):
        raise UserError(
            f"regret: {subject.run.path} was not trained on a task whose best predictor is known; "
            "take recall, or train on one of configs/experiments/solomonoff"
        )
    return source


evaluate_stored.add_to(app)
