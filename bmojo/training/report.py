"""Console output of a run, its figures, and its provenance."""

import contextlib
import importlib.metadata
import io
import itertools
import math
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import bmojo
from bmojo.console import format_table, line, make_table
from bmojo.files import write_atomically
from bmojo.training.config import Evaluation, Stage
from bmojo.training.evaluate import Row
from bmojo.training.metrics import Record
from bmojo.training.run_dir import RunDir

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
TESTED = {"python": "3.11", "jax": "0.10", "flax": "0.12", "optax": "0.2",
          "orbax-checkpoint": "0.12", "grain": "0.2"}  # fmt: skip
"""The newest minor versions that the tests have run with."""
SECONDS_BETWEEN_LINES = 5.0


class Status(contextlib.ExitStack):
    """Progress of a run from ``step`` to ``total``: a bar on a terminal, else lines."""

    def __init__(self, console: Console, total: int, step: int = 0):
        super().__init__()
        self._console, self._total, self._first = console, total, step
        self._started: float | None = None
        self._last_line = 0.0
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.fields[stage]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, expand=True, transient=True)
            self.enter_context(self._bar)
            self._task = self._bar.add_task("", total=total, completed=step, stage="", numbers="")

    def update(
        self, step: int, stage: str, loss: float, accuracy: float, tokens_per_second: float | None
    ) -> None:
        """Show the numbers of a step."""
        numbers = f"loss {loss:.3f}  accuracy {accuracy:.3f}"
        if tokens_per_second is not None:
            numbers += f"  {tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, stage=stage, numbers=numbers)
            return
        now = time.monotonic()
        if self._started is None:  # the first step has waited for the compiler
            self._started, self._last_line, self._first = now, now, step
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._started) / (step - self._first) * (self._total - step)
            shown = f"step {step}/{self._total}  {stage}  {numbers}  ETA {clock(left)}"
            line(self._console, shown)


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def provenance(seed: int) -> dict[str, Any]:
    """Command, code, versions, machine and seed behind a result."""
    device = jax.devices()[0]
    return {
        "seed": seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_revision": git_revision(),
        "versions": versions(),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
    }


def git_revision() -> str | None:
    """Revision of the source tree, with a + if it has changes; None outside a checkout."""

    def git(*arguments: str) -> str:
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
        folder = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=folder, check=True, **options).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str | None]:
    """Versions of bmojo, Python and the packages; None of one that is not installed."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {"bmojo": bmojo.__version__, "python": platform.python_version(), **found}


def untested_versions() -> list[str]:
    """A warning for each package, and for Python, that is newer than TESTED."""
    found, here = [], versions()
    for name, tested in TESTED.items():
        there = here[name] or tested
        newest, minor = ([int(x) for x in re.findall(r"\d+", v)[:2]] for v in (tested, there))
        if minor > newest:
            found.append(f"{name} {there} is newer than {tested}, the newest that was tested")
    return found


def slice_name(evaluation: Evaluation) -> str | None:
    """Name of the quantity that groups an evaluation's examples; None: there are no groups."""
    return getattr(evaluation.data, "slices", None)


def chance(evaluation: Evaluation) -> float | None:
    """Accuracy of guessing, if the task has it."""
    return getattr(evaluation.data, "chance", None)


def one_line(rows: Sequence[Row]) -> str:
    """Results over all groups in a few words."""
    overall = [row for row in rows if row["group"] is None]
    texts = [r for r in overall if "bits_per_byte" in r]
    text = [f"{row['evaluation']} {row['bits_per_byte']:.3f} bits/byte" for row in texts]
    tasks = [f"{r['evaluation']} {r['accuracy']:.3f}" for r in overall if "bits_per_byte" not in r]
    return "  ".join([*text, *(["accuracy", *tasks] if tasks else [])])


def result_tables(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> list[Table]:
    """Accuracy by group of the tasks that have groups; loss and perplexity of the others."""
    sliced = [evaluation for evaluation in evaluations if slice_name(evaluation)]
    others = [evaluation for evaluation in evaluations if not slice_name(evaluation)]
    tables = ((accuracy_table, sliced), (loss_table, others))
    return [make(rows, chosen) for make, chosen in tables if chosen and rows]


def loss_table(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> Table:
    """Loss, perplexity, accuracy and, of text, bits per byte."""
    overall = {row["evaluation"]: row for row in rows if row["group"] is None}
    found = [{"bits_per_byte": None, **overall[e.name]} for e in evaluations]
    columns = {"evaluation": "{evaluation}", "targets": "{count:,}", "loss (nats)": "{loss:.4f}"}
    columns |= {"perplexity": "{perplexity:.3f}", "bits/byte": "{bits_per_byte:.4f}"}
    columns |= {"accuracy": "{accuracy:.3f}"}
    shown = ({**row, "perplexity": math.exp(row["loss"])} for row in found)
    return format_table("next-token prediction", columns, shown, left=["evaluation"])


def accuracy_table(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy by evaluation and group beside the level of chance."""
    shown = {evaluation.name for evaluation in evaluations}
    rows = [row for row in rows if row["evaluation"] in shown]
    groups = sorted({row["group"] for row in rows if row["group"] is not None})
    names = " / ".join(dict.fromkeys(slice_name(e) or "group" for e in evaluations))
    cells = []
    for evaluation in evaluations:
        found = {r["group"]: r["accuracy"] for r in rows if r["evaluation"] == evaluation.name}
        numbers = [*map(found.get, [*groups, None]), chance(evaluation)]
        cells.append([evaluation.name, *("" if x is None else f"{x:.3f}" for x in numbers)])
    columns = ("evaluation", *map(str, groups), "all", "chance")
    return make_table(f"accuracy by {names}", columns, cells, left=["evaluation"])


def print_results(
    run: RunDir, summary: dict[str, Any], evaluations: Sequence[Evaluation], console: Console
) -> None:
    """Print the final metrics, accuracy beside chance, and the paths of the figures."""
    final = summary["final"]
    found = [f"{n} {final[n]:.4f}" for n in ("loss", "accuracy") if final[n] is not None]
    line(console, f"training {', '.join(found) or 'steps without a target at the end'}")
    for table in result_tables(summary["evaluations"], evaluations):
        console.print(table)
    for path in (run.curve, run.accuracy):
        if path.exists():
            line(console, path)


def plot_run(
    run: RunDir,
    records: Sequence[Record],
    rows: Sequence[Row],
    stages: Sequence[Stage],
    evaluations: Sequence[Evaluation],
) -> None:
    """Draw the figures of a finished run: ``curve.png``, and ``accuracy.png`` if it has groups."""
    _plot_curve(run.curve, records, stages)
    sliced = [evaluation for evaluation in evaluations if slice_name(evaluation)]
    if rows and sliced:
        _plot_accuracy(run.accuracy, rows, sliced)


def _plot_curve(path: Path, records: Sequence[Record], stages: Sequence[Stage]) -> None:
    """Loss and accuracy over steps, with evaluations as points and stages as dashed lines."""
    train = [record for record in records if "evaluation" not in record]
    measured = [r for r in records if "evaluation" in r and r["group"] is None]
    with _figure(path, (8, 6), 2) as axes:
        for axis, field in zip(axes, ("loss", "accuracy"), strict=True):
            axis.plot([r["step"] for r in train], [r[field] for r in train], label="training")
            for name in dict.fromkeys(r["evaluation"] for r in measured):
                rows = [r for r in measured if r["evaluation"] == name]
                steps, values = [r["step"] for r in rows], [r[field] for r in rows]
                axis.plot(steps, values, "o--", markersize=4, linewidth=1, label=name)
            for edge in itertools.accumulate(stage.steps for stage in stages[:-1]):
                axis.axvline(edge, color="grey", linestyle="--", linewidth=0.8)
            axis.set_ylabel("loss (nats)" if field == "loss" else field)
        axes[1].set(ylim=(-0.02, 1.02), xlabel="step")


def _plot_accuracy(path: Path, rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> None:
    """Accuracy by group, a line for each evaluation, and the level of chance."""
    ticks = sorted({row["group"] for row in rows if row["group"] is not None})
    names = " / ".join(dict.fromkeys(str(slice_name(evaluation)) for evaluation in evaluations))
    with _figure(path, (6, 4)) as (axis,):
        for evaluation in evaluations:
            own = [r for r in rows if r["evaluation"] == evaluation.name and r["group"] is not None]
            groups, values = [r["group"] for r in own], [r["accuracy"] for r in own]
            axis.plot(groups, values, "o-", label=evaluation.name)
        for level in sorted({level for level in map(chance, evaluations) if level is not None}):
            axis.axhline(level, color="grey", linestyle=":", label=f"chance {level:.3g}")
        if ticks and ticks[0] > 0:
            axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel=names.replace("_", " "), ylabel="accuracy", ylim=(-0.02, 1.02))


@contextlib.contextmanager
def _figure(path: Path, size: tuple[int, int], rows: int = 1) -> Iterator[Any]:
    """The axes of a figure, to be drawn on; it is written when the block ends."""
    from matplotlib.figure import Figure  # slow to start

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    yield axes
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
