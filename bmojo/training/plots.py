"""The two figures of a run, drawn from its metrics."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bmojo.files import write_atomically
from bmojo.training.config import Evaluation, Stage
from bmojo.training.evaluate import Row
from bmojo.training.records import Record
from bmojo.training.report import chance, slice_name
from bmojo.training.run_dir import RunDir


def plot_run(
    run: RunDir,
    records: Sequence[Record],
    rows: Sequence[Row],
    curriculum: Sequence[Stage],
    evaluations: Sequence[Evaluation],
) -> None:
    """Draw what a finished run has to show."""
    plot_curve(run.curve, records, curriculum)
    sliced = [evaluation for evaluation in evaluations if slice_name(evaluation)]
    if rows and sliced:
        plot_accuracy(run.accuracy, rows, sliced)


def plot_curve(path: Path, records: Sequence[Record], curriculum: Sequence[Stage]) -> None:
    """Loss and accuracy over steps, with evaluations as points and stages as dashed lines."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    train = [record for record in records if "evaluation" not in record]
    measured = [r for r in records if "evaluation" in r and r["group"] is None]
    for axis, field in zip(axes, ("loss", "accuracy"), strict=True):
        axis.plot([r["step"] for r in train], [r[field] for r in train], label="training")
        for name in dict.fromkeys(r["evaluation"] for r in measured):
            rows = [r for r in measured if r["evaluation"] == name]
            steps, values = [r["step"] for r in rows], [r[field] for r in rows]
            axis.plot(steps, values, "o--", markersize=4, linewidth=1, label=name)
        boundary = 0
        for stage in curriculum[:-1]:
            boundary += stage.steps
            axis.axvline(boundary, color="grey", linestyle="--", linewidth=0.8)
        axis.set_ylabel("loss (nats)" if field == "loss" else field)
        axis.grid(alpha=0.3)
    axes[1].set_ylim(-0.02, 1.02)
    axes[1].set_xlabel("step")
    axes[0].legend(fontsize="small")
    _save(figure, path)


def plot_accuracy(path: Path, rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> None:
    """Accuracy by group, a line for each evaluation, and the level of chance."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis: Axes = figure.subplots()
    levels = set()
    ticks = set()
    for evaluation in evaluations:
        found = [r for r in rows if r["evaluation"] == evaluation.name and r["group"] is not None]
        groups = [row["group"] for row in found]
        ticks.update(groups)
        axis.plot(groups, [row["accuracy"] for row in found], "o-", label=evaluation.name)
        levels.add(chance(evaluation))
    for level in sorted(level for level in levels if level is not None):
        axis.axhline(level, color="grey", linestyle=":", label=f"chance {level:.3g}")
    if ticks and min(ticks) > 0:
        axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ticks), labels=[str(tick) for tick in sorted(ticks)])
    axis.minorticks_off()
    names = dict.fromkeys(str(slice_name(evaluation)) for evaluation in evaluations)
    axis.set_xlabel(" / ".join(names).replace("_", " "))
    axis.set_ylabel("accuracy")
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
