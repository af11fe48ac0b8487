"""The part of `bmojo eval` that reads with a store beside the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bmojo.cli.common import progress_bar, tell
from bmojo.cli.stored import memory
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.evaluation.recall import LoadedRun
    from bmojo.experiment import Experiment
    from bmojo.session import Use

NEEDLES = (1_000, 10_000, 100_000)
DRIFT = 8_192
VERSIONS = 8
HALF_LIVES = (None, 4_096.0, 1_024.0, 256.0, 64.0)
CHAPTER = 8_192
CHAPTERS = 4


def haystack_task(run: Path, experiment: "Experiment") -> Any:
    """The noisy recall that a run was trained on.

    Raises:
      UserError: it was trained on something else.
    """
    from bmojo.data.noisy_mqar import NoisyMQARConfig

    for stage in reversed(experiment.curriculum):
        if isinstance(stage.data, NoisyMQARConfig):
            return stage.data
    raise UserError(
        f"{run}: it was not trained on NoisyMQAR, in whose vocabulary the questions are put; take "
        "a run of configs/experiments/needles.gin"
    )


def by_memory(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "LoadedRun",
    texts: Sequence[Any],
    directory: Path,
    use: "Use",
) -> None:
    """The loss of each document, read in turn with a store that stays."""
    import math

    import numpy as np
    from rich.table import Table

    from bmojo.evaluation.documents import run_tokenizer
    from bmojo.evaluation.outputs import save
    from bmojo.evaluation.stored.scoring import score_stored

    rows = []
    with (
        memory(
            directory,
            loaded.model,
            run_tokenizer(experiment),
            f"{run}, step {loaded.step}",
            use,
        ) as opened,
        progress_bar("reading", sum(max(len(text) - 1, 0) for text in texts)) as done,
    ):
        assert opened is not None
        for number, text in enumerate(texts):
            source = f"document {number}"
            scores = score_stored(loaded.model, text, opened.store, opened.use, source, done)
            if len(scores.losses):
                loss = float(np.mean(scores.losses, dtype=np.float64))
                entries = len(opened.store)
                rows.append(
                    {"document": number, "tokens": len(text), "loss": loss, "entries": entries}
                )
    table = Table(title=f"loss with the store {directory}")
    for name in ("document", "tokens", "loss", "bits/token", "entries after"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["document"]),
            f"{row['tokens']:,}",
            f"{row['loss']:.4f}",
            f"{row['loss'] / math.log(2):.4f}",
            f"{row['entries']:,}",
        )
    console.print(table)
    results = {"step": loaded.step, "memory": str(directory), "documents": rows}
    tell(console, save(run, "perplexity_memory", results))


def by_needles(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "LoadedRun",
    lengths: Sequence[int] | None,
    streams: int,
    use: "Use",
) -> None:
    """Accuracy over filler, store on and off."""
    from bmojo.data.haystack import HaystackConfig
    from bmojo.evaluation.outputs import save
    from bmojo.evaluation.stored.haystacks import ask, summary
    from bmojo.evaluation.stored.outputs import needles_table, plot_needles
    from bmojo.storage import Policy

    task = haystack_task(run, experiment)
    lengths = sorted(set(lengths or NEEDLES))
    rows = []
    with progress_bar("needles", 2 * streams * sum(lengths)) as done:
        for filler in lengths:
            for policy in (None, Policy()):
                config = HaystackConfig(filler=filler)
                found = summary(ask(loaded.model, task, config, use, policy, streams, 0, done))
                rows.append({"filler": filler, "store": policy is not None, **found})
    console.print(needles_table(rows))
    facts = {"step": loaded.step, "streams": streams, "chance": task.chance}
    figure = plot_needles(rows, task.chance)
    tell(console, save(run, "needles", {**facts, "rows": rows}, figure))


def by_drift(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "LoadedRun",
    lengths: Sequence[int] | None,
    streams: int,
    use: "Use",
) -> None:
    """Accuracy on the last of several values, by half-life."""
    from bmojo.data.haystack import HaystackConfig
    from bmojo.evaluation.outputs import save
    from bmojo.evaluation.stored.haystacks import ask, summary
    from bmojo.evaluation.stored.outputs import drift_table, plot_drift
    from bmojo.storage import Policy

    task = haystack_task(run, experiment)
    filler = max(lengths or (DRIFT,))
    config = HaystackConfig(filler=filler, versions=VERSIONS)
    rows = []
    with progress_bar("drift", (1 + len(HALF_LIVES)) * streams * filler) as done:
        found = summary(ask(loaded.model, task, config, use, None, streams, 0, done))
        rows.append({"store": False, "half_life": None, **found})
        for half_life in HALF_LIVES:
            policy = Policy(half_life_tokens=half_life)
            found = summary(ask(loaded.model, task, config, use, policy, streams, 0, done))
            rows.append({"store": True, "half_life": half_life, **found})
    console.print(drift_table(rows, VERSIONS))
    facts = {"step": loaded.step, "streams": streams, "filler": filler, "versions": VERSIONS}
    facts["chance"] = task.chance
    tell(console, save(run, "drift", {**facts, "rows": rows}, plot_drift(rows, task.chance)))


def by_rereading(
    console: Console,
    run: Path,
    loaded: "LoadedRun",
    texts: Sequence[Any],
    lengths: Sequence[int] | None,
    use: "Use",
) -> None:
    """Loss of the first and the second reading."""
    import dataclasses

    from bmojo.evaluation.outputs import save
    from bmojo.evaluation.stored.outputs import rereading_table
    from bmojo.evaluation.stored.rereading import reread
    from bmojo.storage import Policy

    size = max(lengths or (CHAPTER,))
    # From the middle: books begin alike.
    middles = [(text, (len(text) - size) // 2) for text in texts if len(text) >= size]
    chapters = [text[first : first + size] for text, first in middles[:CHAPTERS]]
    if len(chapters) < 2:
        raise UserError(
            f"--eval rereading: {len(chapters)} documents have {size} tokens, and two are needed; "
            "give a smaller --length, or more --documents"
        )
    with progress_bar("reading", 5 * sum(len(c) - 1 for c in chapters)) as done:
        found = reread(loaded.model, chapters, use, Policy(), done)
    rows = [dataclasses.asdict(row) for row in found]
    console.print(rereading_table(rows))
    tell(console, save(run, "rereading", {"step": loaded.step, "rows": rows}))
