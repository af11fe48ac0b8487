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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import bmojo
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
    """Progress of a run: a bar on a terminal, a line now and then elsewhere.

    Args:
      console: that shows it.
      total: steps of the whole run.
      step: steps done before.
    """

    def __init__(self, console: Console, total: int, step: int = 0):
        super().__init__()
        self._console, self._total, self._first = console, total, step
        self._started: float | None = None
        self._last_line = 0.0
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[stage]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=console,
                expand=True,
                transient=True,
            )
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
            self._started = self._last_line = now
            self._first = step
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._started) / (step - self._first) * (self._total - step)
            self._console.print(
                f"step {step}/{self._total}  {stage}  {numbers}  ETA {clock(left)}",
                highlight=False,
            )


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def provenance(seed: int) -> dict[str, Any]:
    """Command, code, versions, machine and seed behind a result."""
    versions = {name: version(name) for name in PACKAGES}
    device = jax.devices()[0]
    return {
        "seed": seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_revision": git_revision(),
        "versions": {"bmojo": bmojo.__version__, "python": platform.python_version(), **versions},
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
    }


def git_revision() -> str | None:
    """Revision of the source tree, with a + if it has changes; None outside a checkout."""

    def git(*arguments: str) -> str:
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parent, check=True, **options)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changed else "")


def version(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def untested_versions() -> list[str]:
    """A warning for each package, and for Python, that is newer than TESTED."""
    found = []
    for name, tested in TESTED.items():
        there = platform.python_version() if name == "python" else version(name) or tested
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
    table = Table(title="next-token prediction")
    for name in ("evaluation", "targets", "loss (nats)", "perplexity", "bits/byte", "accuracy"):
        table.add_column(name, justify="left" if name == "evaluation" else "right")
    overall = {row["evaluation"]: row for row in rows if row["group"] is None}
    for evaluation in evaluations:
        row = overall[evaluation.name]
        bits = f"{row['bits_per_byte']:.4f}" if "bits_per_byte" in row else ""
        numbers = (f"{row['count']:,}", f"{row['loss']:.4f}", f"{math.exp(row['loss']):.3f}", bits)
        table.add_row(evaluation.name, *numbers, f"{row['accuracy']:.3f}")
    return table


def accuracy_table(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy by evaluation and group beside the level of chance."""
    shown = {evaluation.name for evaluation in evaluations}
    rows = [row for row in rows if row["evaluation"] in shown]
    groups = sorted({row["group"] for row in rows if row["group"] is not None})
    names = " / ".join(dict.fromkeys(slice_name(e) or "group" for e in evaluations))
    table = Table(title=f"accuracy by {names}")
    table.add_column("evaluation")
    for group in [*groups, "all", "chance"]:
        table.add_column(str(group), justify="right")
    for evaluation in evaluations:
        found = {row["group"]: row for row in rows if row["evaluation"] == evaluation.name}
        cells = [f"{found[g]['accuracy']:.3f}" if g in found else "" for g in [*groups, None]]
        level = chance(evaluation)
        table.add_row(evaluation.name, *cells, "" if level is None else f"{level:.3f}")
    return table


def print_results(
    run: RunDir, summary: dict[str, Any], evaluations: Sequence[Evaluation], console: Console
) -> None:
    """Print the final metrics, accuracy beside chance, and the paths of the figures."""
    final = summary["final"]
    console.print(
        f"training loss {final['loss']:.4f}, accuracy {final['accuracy']:.4f}", highlight=False
    )
    for table in result_tables(summary["evaluations"], evaluations):
        console.print(table)
    for path in (run.curve, run.accuracy):
        if path.exists():
            console.print(str(path), highlight=False, soft_wrap=True)


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
    from matplotlib.figure import Figure  # slow to start

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    train = [record for record in records if "evaluation" not in record]
    measured = [r for r in records if "evaluation" in r and r["group"] is None]
    edges = list(itertools.accumulate(stage.steps for stage in stages[:-1]))
    for axis, field in zip(axes, ("loss", "accuracy"), strict=True):
        axis.plot([r["step"] for r in train], [r[field] for r in train], label="training")
        for name in dict.fromkeys(r["evaluation"] for r in measured):
            rows = [r for r in measured if r["evaluation"] == name]
            steps, values = [r["step"] for r in rows], [r[field] for r in rows]
            axis.plot(steps, values, "o--", markersize=4, linewidth=1, label=name)
        for edge in edges:
            axis.axvline(edge, color="grey", linestyle="--", linewidth=0.8)
        axis.set_ylabel("loss (nats)" if field == "loss" else field)
        axis.grid(alpha=0.3)
    axes[1].set(ylim=(-0.02, 1.02), xlabel="step")
    axes[0].legend(fontsize="small")
    _save(figure, path)


def _plot_accuracy(path: Path, rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> None:
    """Accuracy by group, a line for each evaluation, and the level of chance."""
    from matplotlib.figure import Figure  # slow to start

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    ticks = set()
    for evaluation in evaluations:
        found = [r for r in rows if r["evaluation"] == evaluation.name and r["group"] is not None]
        groups = [row["group"] for row in found]
        ticks.update(groups)
        axis.plot(groups, [row["accuracy"] for row in found], "o-", label=evaluation.name)
    for level in sorted({level for level in map(chance, evaluations) if level is not None}):
        axis.axhline(level, color="grey", linestyle=":", label=f"chance {level:.3g}")
    if ticks and min(ticks) > 0:
        axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ticks), labels=[str(tick) for tick in sorted(ticks)])
    axis.minorticks_off()
    names = " / ".join(dict.fromkeys(str(slice_name(evaluation)) for evaluation in evaluations))
    axis.set(xlabel=names.replace("_", " "), ylabel="accuracy", ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
