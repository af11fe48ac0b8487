"""Kinds of `bmojo eval` that read with a store beside the model."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import Numbers, option, progress_bar
from bmojo.cli.kinds import Documents, Kind, Subject, length_option
from bmojo.cli.stored import Agree, Every, Nearest, Threshold, memory
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.session import Use

NEEDLES = (1_000, 10_000, 100_000)
DRIFT = 8_192
VERSIONS = 8
HALF_LIVES = (None, 4_096.0, 1_024.0, 256.0, 64.0)
CHAPTER = 8_192
CHAPTERS = 4

Streams = Annotated[int, option("N", "Streams of each length.", min=1)]


def add_to(app: typer.Typer) -> None:
    """Add the kinds to `bmojo eval`."""
    for kind in (needles, drift, rereading):
        app.command()(kind)


def needles(
    context: typer.Context,
    lengths: Annotated[
        Numbers,
        length_option("Tokens of filler; repeat for more. Default: 1000, 10000 and 100000."),
    ] = None,
    streams: Streams = 4,
    every: Every = None,
    nearest: Nearest = 2,
    agree: Agree = 0,
    threshold: Threshold = 1.0,
) -> Kind:
    """Facts asked for after filler, with a store and without.

    32 facts, then filler of each --length, then questions. Stores are temporary.
    """
    subject: Subject = context.obj
    task = haystack_task(subject)
    use = _use(every, nearest, agree, threshold)

    yield
    from bmojo.evaluation.stored.outputs import needles_table, plot_needles
    from bmojo.storage import Policy

    chosen = sorted(set(lengths or NEEDLES))
    rows = []
    with progress_bar("needles", 2 * streams * sum(chosen)) as done:
        for filler in chosen:
            for policy in (None, Policy()):
                found = _ask(subject, task, use, policy, streams, done, filler=filler)
                rows.append({"filler": filler, "store": policy is not None, **found})
    results = {"streams": streams, "chance": task.chance, "rows": rows}
    figure = plot_needles(rows, task.chance)
    subject.report("needles", results, needles_table(rows), figure=figure)


def drift(
    context: typer.Context,
    lengths: Annotated[Numbers, length_option("Tokens of filler. Default: 8192.")] = None,
    streams: Streams = 4,
    every: Every = None,
    nearest: Nearest = 2,
    agree: Agree = 0,
    threshold: Threshold = 1.0,
) -> Kind:
    """Facts whose values change, by half-life of the store.

    Questions ask for the last value. Stores are temporary.
    """
    subject: Subject = context.obj
    task = haystack_task(subject)
    use = _use(every, nearest, agree, threshold)

    yield
    from bmojo.evaluation.stored.outputs import drift_table, plot_drift
    from bmojo.storage import Policy

    filler = max(lengths or (DRIFT,))
    stores = [None, *(Policy(half_life_tokens=half_life) for half_life in HALF_LIVES)]
    rows = []
    with progress_bar("drift", len(stores) * streams * filler) as done:
        for policy in stores:
            found = _ask(
                subject, task, use, policy, streams, done, filler=filler, versions=VERSIONS
            )
            half_life = None if policy is None else policy.half_life_tokens
            rows.append({"store": policy is not None, "half_life": half_life, **found})
    facts = {"streams": streams, "filler": filler, "versions": VERSIONS}
    results = {**facts, "chance": task.chance, "rows": rows}
    figure = plot_drift(rows, task.chance)
    subject.report("drift", results, drift_table(rows, VERSIONS), figure=figure)


def rereading(
    context: typer.Context,
    lengths: Annotated[Numbers, length_option("Tokens of a chapter. Default: 8192.")] = None,
    documents: Documents = None,
    every: Every = None,
    nearest: Nearest = 2,
    agree: Agree = 0,
    threshold: Threshold = 1.0,
) -> Kind:
    """Loss of a chapter that is read twice with a store.

    And of another chapter with the same store. Stores are temporary.
    """
    subject: Subject = context.obj
    size = max(lengths or (CHAPTER,))
    # From the middle: books begin alike.
    middles = [
        (text, (len(text) - size) // 2) for text in subject.texts(documents) if len(text) >= size
    ]
    chapters = [text[first : first + size] for text, first in middles[:CHAPTERS]]
    if len(chapters) < 2:
        raise UserError(
            f"rereading: {len(chapters)} documents have {size} tokens, and two are needed; give a "
            "smaller --length, or more --documents"
        )
    use = _use(every, nearest, agree, threshold)

    yield
    from bmojo.evaluation.stored.outputs import rereading_table
    from bmojo.evaluation.stored.rereading import reread
    from bmojo.storage import Policy

    with progress_bar("reading", 5 * sum(len(c) - 1 for c in chapters)) as done:
        rows = reread(subject.run.model, chapters, use, Policy(), done)
    subject.report("rereading", {"rows": rows}, rereading_table(rows))


def measure_with_store(subject: Subject, texts: Sequence[Any], directory: Path, use: "Use") -> None:
    """The loss of each document, read in turn with a store that stays."""
    import numpy as np

    from bmojo.console import make_table
    from bmojo.evaluation.stored.scoring import score_stored

    run = subject.run
    rows = []
    with (
        memory(directory, run.model, run.tokenizer, f"{run.path}, step {run.step}", use) as opened,
        progress_bar("reading", sum(max(len(text) - 1, 0) for text in texts)) as done,
    ):
        assert opened is not None
        for number, text in enumerate(texts):
            source = f"document {number}"
            scores = score_stored(run.model, text, opened.store, opened.use, source, done)
            if len(scores.losses):
                loss = float(np.mean(scores.losses, dtype=np.float64))
                row = {"document": number, "tokens": len(text), "loss": loss}
                rows.append({**row, "entries": len(opened.store)})
    lines = (
        (
            row["document"],
            f"{row['tokens']:,}",
            f"{row['loss']:.4f}",
            f"{row['loss'] / math.log(2):.4f}",
            f"{row['entries']:,}",
        )
        for row in rows
    )
    columns = ("document", "tokens", "loss", "bits/token", "entries after")
    table = make_table(f"loss with the store {directory}", columns, lines)
    subject.report("perplexity_memory", {"memory": str(directory), "documents": rows}, table)


def haystack_task(subject: Subject) -> Any:
    """The noisy recall that a run was trained on.

    Raises:
      UserError: it was trained on something else.
    """
    from bmojo.data.noisy_mqar import NoisyMQARConfig

    for stage in reversed(subject.experiment.curriculum):
        if isinstance(stage.data, NoisyMQARConfig):
            return stage.data
    raise UserError(
        f"{subject.run.path}: it was not trained on NoisyMQAR, whose vocabulary the questions use; "
        "take a run of configs/experiments/needles.gin"
    )


def _use(every: int | None, nearest: int, agree: int, threshold: float | None) -> "Use":
    from bmojo.session import Use

    return Use(every, nearest, threshold=threshold, agree=agree)


def _ask(
    subject: Subject, task: Any, use: "Use", policy: Any, streams: int, progress: Any, **facts: Any
) -> dict[str, float]:
    """Mean answers over streams."""
    from bmojo.data.haystack import HaystackConfig
    from bmojo.evaluation.stored.haystacks import ask

    config = HaystackConfig(**facts)
    return ask(subject.run.model, task, config, use, policy, streams, progress)
