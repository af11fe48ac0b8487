"""What evaluations leave behind in RUN/evaluation: JSON, figures; and tables on the terminal."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from bmojo.files import write_atomically

__all__ = [
    "context_table",
    "plot_positions",
    "plot_recall",
    "plot_returns",
    "position_table",
    "recall_table",
    "returns_table",
    "save",
]

Row = Mapping[str, Any]


def save(run: Path, name: str, results: Mapping[str, Any], figure: Figure | None = None) -> Path:
    """Write RUN/evaluation/NAME.json, and NAME.png if there is a figure.

    Returns:
      The path of the JSON file.
    """
    folder = run / "evaluation"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
    if figure is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
        write_atomically(path.with_suffix(".png"), buffer.getvalue())
    return path


def context_table(rows: Sequence[Row]) -> Table:
    """Loss by length of the context.

    ``same windows`` is the loss over the windows that reach the longest context, ``texts`` the
    documents used, ``too short`` those shorter than the context.
    """
    table = Table(title="loss by context")
    columns = ("context", "loss", "±", "ppl", "bits/byte", "same\nwindows")
    for name in (*columns, "windows", "texts", "too\nshort"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['context']:,}",
            _number(row["loss"]),
            _number(row["stderr"]),
            _number(row["perplexity"], 2),
            _number(row["bits_per_byte"]),
            _number(row["loss_same_windows"]),
            f"{row['windows']:,}",
            f"{row['documents']:,}",
            f"{row['documents_too_short']:,}",
        )
    return table


def position_table(rows: Sequence[Row]) -> Table:
    """Loss by position, and the change beyond the training length."""
    table = Table(title="loss by position")
    for name in ("positions", "loss", "±", "change beyond training", "tokens", "windows"):
        table.add_column(name, justify="right")
    for row in rows:
        change = row["change"]
        table.add_row(
            f"{row['start']:,} - {row['stop'] - 1:,}",
            _number(row["loss"]),
            _number(row["stderr"]),
            "" if change is None else f"{change:+.1%}",
            f"{row['count']:,}",
            f"{row['windows']:,}",
        )
    return table


def plot_positions(rows: Sequence[Row], training_length: int | None = None) -> Figure:
    """Loss by position on a logarithmic axis, with a band of two standard errors."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    # A bucket stands at the geometric middle of its positions, counted from 1.
    middle = [((row["start"] + 1) * row["stop"]) ** 0.5 for row in rows]
    losses = [row["loss"] for row in rows]
    axis.plot(middle, losses, "o-", markersize=4)
    band = [2 * (row["stderr"] or 0.0) for row in rows]
    low = [loss - width for loss, width in zip(losses, band, strict=True)]
    high = [loss + width for loss, width in zip(losses, band, strict=True)]
    axis.fill_between(middle, low, high, alpha=0.25)
    if training_length is not None:
        axis.axvline(
            training_length, color="grey", linestyle="--", label=f"trained on {training_length}"
        )
        axis.legend(fontsize="small")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("position")
    axis.set_ylabel("loss (nats per token)")
    axis.grid(alpha=0.3)
    return figure


def recall_table(rows: Sequence[Row], field: str, title: str) -> Table:
    """Accuracy by evaluation and a field, such as the distance."""
    keys = list(dict.fromkeys(row[field] for row in sorted(rows, key=lambda row: row[field])))
    table = Table(title=title)
    table.add_column("evaluation")
    for key in keys:
        table.add_column(f"{key:,}", justify="right")
    for name in dict.fromkeys(row["evaluation"] for row in rows):
        found = {row[field]: row for row in rows if row["evaluation"] == name}
        table.add_row(name, *(f"{found[k]['accuracy']:.3f}" if k in found else "" for k in keys))
    return table


def plot_recall(
    groups: Sequence[Row], distances: Sequence[Row], slices: str, levels: Sequence[float]
) -> Figure:
    """Accuracy by group and by distance, side by side, with the levels of chance dotted."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, rows, field, label in (
        (axes[0], groups, "group", slices.replace("_", " ")),
        (axes[1], distances, "distance", "tokens from the pair to its query, at least"),
    ):
        for name in dict.fromkeys(row["evaluation"] for row in rows):
            found = [row for row in rows if row["evaluation"] == name and row[field] is not None]
            axis.plot([r[field] for r in found], [r["accuracy"] for r in found], "o-", label=name)
        for level in sorted(set(levels)):
            axis.axhline(level, color="grey", linestyle=":")
        keys = {row[field] for row in rows if row[field] is not None}
        if keys and min(keys) > 0:
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(keys), labels=[str(key) for key in sorted(keys)])
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy")
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend(fontsize="small")
    return figure


def returns_table(rows: Sequence[Row], span: int) -> Table:
    """Loss on known, new and returning tokens."""
    table = Table(title=f"loss on what comes back, with the {span} tokens before it")
    for name in ("token", "loss", "±", "tokens"):
        table.add_column(name, justify="left" if name == "token" else "right")
    names = {"known": "in the training text", "new": "not in it, and new"}
    for row in rows:
        name = names.get(row["kind"], "")
        if row["kind"] == "returns":
            name = f"not in it, {row['start']:,} - {row['stop'] - 1:,} tokens ago"
        table.add_row(name, _number(row["loss"], 3), _number(row["stderr"], 3), f"{row['count']:,}")
    return table


def plot_returns(rows: Sequence[Row]) -> Figure:
    """Loss by distance to the last occurrence, with that of new and of known tokens as lines."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    back = [row for row in rows if row["kind"] == "returns" and row["loss"] is not None]
    axis.errorbar(
        [(row["start"] * (row["stop"] - 1)) ** 0.5 for row in back],
        [row["loss"] for row in back],
        [2 * (row["stderr"] or 0.0) for row in back],
        fmt="o-",
        markersize=4,
        label="returning",
    )
    for kind, style in (("new", "--"), ("known", ":")):
        loss = next(row["loss"] for row in rows if row["kind"] == kind)
        if loss is not None:
            axis.axhline(loss, color="grey", linestyle=style, label=kind)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("tokens since it was there last")
    axis.set_ylabel("loss (nats per token)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return figure


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
