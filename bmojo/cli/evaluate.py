"""`bmojo eval`: the evaluations of a run's config, or kinds of evaluation by name."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import EXIT_CODES, Numbers, Overrides, Run, Step, make_app, option, split
from bmojo.cli.kinds import BatchSize, Documents, Kind, KindGroup, Subject, length_option
from bmojo.cli.stored import open_store, with_store, with_use
from bmojo.console import format_table, make_table, progress_bar
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.data.universal.sequences import SequenceSource

BATCH_SIZE = 8
VERSIONS = 8
HALF_LIVES = (None, 4_096.0, 1_024.0, 256.0, 64.0)
CHAPTERS = 4
Streams = Annotated[int, option("N", "Streams of each length.", min=1)]

app = make_app(
    cls=KindGroup,
    no_args_is_help=False,
    invoke_without_command=True,
    subcommand_metavar="[KIND... [OPTIONS]]...",
    epilog=EXIT_CODES,
)

Contexts = Annotated[
    Numbers, length_option("Of context; repeat for more. Default: powers of two, 512 to 65536.")
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
@with_store
def perplexity(
    context: typer.Context,
    contexts: Contexts = None,
    documents: Documents = None,
    batch_size: BatchSize = BATCH_SIZE,
    stored: Any = None,
) -> Kind:
    """Loss, perplexity, bits per byte by context; loss by position.

    With --memory, documents are read whole, one after the other, and each may remember those
    before it.
    """
    subject: Subject = context.obj
    texts = subject.texts(documents)
    if stored[0] is not None:
        yield
        measure_with_store(subject, texts, stored)
        return
    yield
    from bmojo.evaluation.outputs import context_table, plot_positions
    from bmojo.evaluation.perplexity import CONTEXTS, by_context, by_position

    chosen = sorted(set(contexts or CONTEXTS))
    found = subject.losses(documents, chosen[-1], batch_size)
    rows, positions = by_context(found, chosen), by_position(found)
    results = {**_facts(subject, texts, chosen[-1]), "contexts": rows, "positions": positions}
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
        option("N", "Repeated tokens before the measured: 6 for bytes, 1 or 2 for words.", min=1),
    ] = 6,
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


@app.command()
def readout(
    context: typer.Context,
    documents: Documents = None,
    tokens: Annotated[int, option("N", "Of each document, from its beginning.", min=2)] = 32_768,
    texts: Annotated[int, option("N", "Documents, the longest.", min=1)] = 1,
    times: Annotated[int, option("N", "Readings in succession.", min=1)] = 2,
) -> Kind:
    """What a verbatim read-out is worth: by the head alone, as trained, with matches.

    Matches of 256 entries in all that was read are added to a read-out that was trained without.
    """
    subject: Subject = context.obj
    if not getattr(getattr(subject.experiment.model, "readout", None), "reads", False):
        raise UserError(
            f"readout: the model of {subject.run.path} has no verbatim read-out; train one with "
            "readouts/ring.gin behind the model"
        )
    longest = sorted(subject.texts(documents), key=len)[-texts:]
    yield
    from bmojo.evaluation import readout
    from bmojo.evaluation.outputs import plot_readout, readout_table

    chosen = [text[:tokens] for text in longest]
    total = sum(times * (len(text) - 1) for text in chosen) * len(readout.forms(1))
    with progress_bar("reading", total) as done:
        found = readout.measure_forms(subject.run.model, chosen, times, done)
    text = [subject.run.tokenizer.decode(ids[1:]) for ids in chosen]
    rows = readout.rows(found, times, sum(len(part.encode()) for part in text))
    curves = {name: readout.curve(losses).tolist() for name, losses in found.items()}
    second = len(chosen[0]) - 1 if times > 1 else None
    figure = plot_readout(curves, readout.BLOCK, second)
    results = {"documents": len(chosen), "tokens": tokens, "rows": rows, "curves": curves}
    subject.report("readout", results, readout_table(rows, times), figure=figure)


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
    tables = accuracy_table(groups, evaluations), recall_table(distances, "distance", title)
    levels = [level for level in map(chance, evaluations) if level is not None]
    names = " / ".join(dict.fromkeys(slice_name(e) or "group" for e in evaluations))
    figure = plot_recall(groups, distances, names, levels)
    results = {"groups": groups, "distances": distances}
    subject.report("recall", results, *tables, figure=figure)


@app.command()
def harness(
    context: typer.Context,
    tasks: Annotated[
        str | None,
        option("DIR|NAME,...", "Folder of lm-evaluation-harness YAML files, or its own tasks."),
    ] = None,
    limit: Annotated[int | None, option("N", "Documents of each task.", min=1)] = None,
    metadata: Annotated[
        str | None, option("JSON", "For tasks that make their data, such as ruler.")
    ] = None,
    batch_size: BatchSize = BATCH_SIZE,
) -> Kind:
    """Tasks of a folder, or by name, of lm-evaluation-harness.

    Needs pip install 'bmojo[eval]'.
    """
    subject: Subject = context.obj
    if tasks is None:
        raise UserError("--tasks: the harness needs tasks; name a folder of its YAML files")
    try:
        facts = dict(json.loads(metadata or "{}"))
    except (ValueError, TypeError):
        raise UserError(f"--metadata: {metadata!r} is no JSON object; give one") from None
    if subject.run.tokenizer is None:
        raise UserError(
            f"{subject.run.path}: it was trained on a task without text; the harness needs a text"
        )
    if (folder := Path(tasks).expanduser()).is_dir() and not any(folder.rglob("*.yaml")):
        raise UserError(f"{tasks}: no tasks are here; give a folder of the harness's YAML files")
    yield
    try:
        from bmojo.evaluation.harness import HarnessModel, run_tasks
    except ImportError as error:
        raise UserError(
            f"harness: lm-eval is not installed ({error}); pip install 'bmojo[eval]'"
        ) from None
    run = subject.run
    with progress_bar("harness", None) as done:
        lm = HarnessModel(run.model, run.tokenizer, batch_size=batch_size, progress=done)
        results = run_tasks(lm, tasks, limit, facts)
    rows = [
        (task, name, f"{x:,.4f}") for task, found in results.items() for name, x in found.items()
    ]
    columns = ("task", "metric", "value")
    table = make_table("lm-evaluation-harness", columns, rows, left=columns[:2])
    subject.report("harness", {"tasks": results}, table)


@app.command()
def regret(
    context: typer.Context,
    lengths: Annotated[
        Numbers, length_option("Of sequences; repeat for more. Default: 1, 4, 16 x training.")
    ] = None,
    sequences: Annotated[int, option("N", "Number of sequences.", min=1)] = 128,
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
    """Test sequences of the run's last stage, of another length, if their predictor is known."""
    from bmojo.data.universal.sequences import SequenceSource

    data = subject.experiment.curriculum[-1].data
    source = dataclasses.replace(data, length=length).source(0, "test")
    if not isinstance(source, SequenceSource):
        raise UserError(
            f"regret: {subject.run.path} was not trained on a task whose best predictor is known; "
            "take recall, or train on one of configs/experiments/solomonoff"
        )
    return source


@app.command()
@with_use
def needles(
    context: typer.Context,
    lengths: Annotated[Numbers, length_option("Filler tokens. Default: 1000 10000 100000.")] = None,
    streams: Streams = 4,
    use: Any = None,
) -> Kind:
    """Facts asked for after filler, with a store and without.

    32 facts, then filler of each --length, then questions. Stores are temporary.
    """
    subject: Subject = context.obj
    task = haystack_task(subject)
    yield
    from bmojo.data.haystack import HaystackConfig
    from bmojo.evaluation.stored.haystacks import ask
    from bmojo.evaluation.stored.outputs import needles_table, plot_needles
    from bmojo.storage import Policy

    model, chosen, rows = subject.run.model, sorted(set(lengths or (1_000, 10_000, 100_000))), []
    with progress_bar("needles", 2 * streams * sum(chosen)) as done:
        for filler in chosen:
            for policy in (None, Policy()):
                config = HaystackConfig(filler=filler)
                found = ask(model, task, config, use, policy, streams, done)
                rows.append({"filler": filler, "store": policy is not None, **found})
    results = {"streams": streams, "chance": task.chance, "rows": rows}
    figure = plot_needles(rows, task.chance)
    subject.report("needles", results, needles_table(rows), figure=figure)


@app.command()
@with_use
def drift(
    context: typer.Context,
    lengths: Annotated[Numbers, length_option("Tokens of filler. Default: 8192.")] = None,
    streams: Streams = 4,
    use: Any = None,
) -> Kind:
    """Facts whose values change, by half-life of the store.

    Questions ask for the last value. Stores are temporary.
    """
    subject: Subject = context.obj
    task = haystack_task(subject)
    yield
    from bmojo.data.haystack import HaystackConfig
    from bmojo.evaluation.stored.haystacks import ask
    from bmojo.evaluation.stored.outputs import drift_table, plot_drift
    from bmojo.storage import Policy

    model, filler, rows = subject.run.model, max(lengths or [8_192]), []
    config = HaystackConfig(filler=filler, versions=VERSIONS)
    stores = [None, *(Policy(half_life_tokens=half_life) for half_life in HALF_LIVES)]
    with progress_bar("drift", len(stores) * streams * filler) as done:
        for policy in stores:
            found = ask(model, task, config, use, policy, streams, done)
            half_life = None if policy is None else policy.half_life_tokens
            rows.append({"store": policy is not None, "half_life": half_life, **found})
    facts = {"streams": streams, "filler": filler, "versions": VERSIONS}
    results = {**facts, "chance": task.chance, "rows": rows}
    figure = plot_drift(rows, task.chance)
    subject.report("drift", results, drift_table(rows, VERSIONS), figure=figure)


@app.command()
@with_use
def rereading(
    context: typer.Context,
    lengths: Annotated[Numbers, length_option("Tokens of a chapter. Default: 8192.")] = None,
    documents: Documents = None,
    use: Any = None,
) -> Kind:
    """Loss of a chapter that is read twice with a store.

    And of another chapter with the same store. Stores are temporary.
    """
    subject: Subject = context.obj
    size = max(lengths or [8_192])
    books = [text for text in subject.texts(documents) if len(text) >= size][:CHAPTERS]
    # From the middle: books begin alike.
    chapters = [text[(len(text) - size) // 2 :][:size] for text in books]
    if len(chapters) < 2:
        raise UserError(
            f"rereading: {len(chapters)} documents have {size} tokens, and two are needed; give a "
            "smaller --length, or more --documents"
        )
    yield
    from bmojo.evaluation.stored.outputs import rereading_table
    from bmojo.evaluation.stored.rereading import reread
    from bmojo.storage import Policy

    with progress_bar("reading", 5 * sum(len(c) - 1 for c in chapters)) as done:
        rows = reread(subject.run.model, chapters, use, Policy(), done)
    subject.report("rereading", {"rows": rows}, rereading_table(rows))


def measure_with_store(subject: Subject, texts: Sequence[Any], stored: Any) -> None:
    """The loss of each document, read in turn with a store that stays."""
    import numpy as np

    from bmojo.evaluation.stored.scoring import score_stored

    run = subject.run
    rows = []
    with (
        open_store(stored, run.model, run.tokenizer, f"{run.path}, step {run.step}") as store,
        progress_bar("reading", sum(max(len(text) - 1, 0) for text in texts)) as done,
    ):
        assert store is not None
        for number, text in enumerate(texts):
            source = f"document {number}"
            scores = score_stored(run.model, text, store, stored[1], source, done)
            if len(scores.losses):
                loss = float(np.mean(scores.losses, dtype=np.float64))
                row = {"document": number, "tokens": len(text), "loss": loss}
                rows.append({**row, "entries": len(store)})
    columns = {
        "document": "{document}", "tokens": "{tokens:,}", "loss": "{loss:.4f}",
        "bits/token": "{bits:.4f}", "entries after": "{entries:,}",
    }  # fmt: skip
    lines = [{**row, "bits": row["loss"] / math.log(2)} for row in rows]
    table = format_table(f"loss with the store {stored[0]}", columns, lines)
    subject.report("perplexity_memory", {"memory": str(stored[0]), "documents": rows}, table)


def haystack_task(subject: Subject) -> Any:
    """The noisy recall that a run was trained on; UserError if it was something else."""
    from bmojo.data.mad import NoisyMQARConfig

    for stage in reversed(subject.experiment.curriculum):
        if isinstance(stage.data, NoisyMQARConfig):
            return stage.data
    raise UserError(
        f"{subject.run.path}: it was not trained on NoisyMQAR, whose vocabulary the questions use; "
        "take a run of configs/experiments/needles.gin"
    )
