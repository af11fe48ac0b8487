"""Results of evaluations: JSON and figures in RUN/evaluation, and tables for the terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bmojo.console import format_table, make_table
from bmojo.evaluation.figures import png
from bmojo.evaluation.regret import NEAR
from bmojo.files import write_atomically

Row = Mapping[str, Any]


def save(run: Path, name: str, results: Mapping[str, Any], figure: Figure | None = None) -> Path:
    """Write RUN/evaluation/NAME.json, whose path is returned, and NAME.png if there is a figure."""
    folder = run / "evaluation"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
    if figure is not None:
        write_atomically(path.with_suffix(".png"), png(figure))
    return path


# Tables


def context_table(rows: Sequence[Row]) -> Table:
    """Loss by length of the context.

    ``same windows`` is the loss over the windows that reach the longest context, ``texts`` the
    documents used, ``too short`` those shorter than the context.
    """
    columns = {
        "context": "{context:,}",
        "loss": "{loss:,.4f}",
        "±": "{stderr:,.4f}",
        "ppl": "{perplexity:,.2f}",
        "bits/byte": "{bits_per_byte:,.4f}",
        "same\nwindows": "{loss_same_windows:,.4f}",
        "windows": "{windows:,}",
        "texts": "{documents:,}",
        "too\nshort": "{documents_too_short:,}",
    }
    return format_table("loss by context", columns, rows)


def position_table(rows: Sequence[Row]) -> Table:
    """Loss by position, and the change beyond the training length."""
    columns = {
        "positions": "{start:,} - {last:,}",
        "loss": "{loss:,.4f}",
        "±": "{stderr:,.4f}",
        "change beyond training": "{change:+.1%}",
        "tokens": "{count:,}",
        "windows": "{windows:,}",
    }
    rows = [{**row, "last": row["stop"] - 1} for row in rows]
    return format_table("loss by position", columns, rows)


def recall_table(rows: Sequence[Row], field: str, title: str) -> Table:
    """Accuracy by evaluation and a field, such as the distance."""
    keys = list(dict.fromkeys(row[field] for row in sorted(rows, key=lambda row: row[field])))
    found = {(row["evaluation"], row[field]): f"{row['accuracy']:.3f}" for row in rows}
    lines = [
        [name, *(found.get((name, key), "") for key in keys)]
        for name in dict.fromkeys(row["evaluation"] for row in rows)
    ]
    columns = ["evaluation", *(f"{key:,}" for key in keys)]
    return make_table(title, columns, lines, left=["evaluation"])


def ngram_table(rows: Sequence[Row], span: int) -> Table:
    """Loss on known, new and repeated tokens."""
    names = {"known": "in the training text", "new": "not in it, and new"}
    lines = []
    for row in rows:
        name = names.get(row["kind"])
        if name is None:
            name = f"not in it, {row['start']:,} - {row['stop'] - 1:,} tokens ago"
        lines.append({**row, "name": name})
    columns = {"token": "{name}", "loss": "{loss:,.3f}", "±": "{stderr:,.3f}"}
    columns["tokens"] = "{count:,}"
    title = f"loss on repeated tokens, with the {span} tokens before them"
    return format_table(title, columns, lines, left=["token"])


def regret_table(rows: Sequence[Row], counted: str) -> Table:
    """Bits of a sequence by length and group; ``counted`` is the quantity that groups count."""
    columns = {
        "length": "{length:,}",
        counted.replace("_", " "): "{name}",
        "sequences": "{sequences}",
        "source": "{source:,.1f}",
        "oracle": "{oracle:,.1f}",
        "model": "{model:,.1f}",
        "regret": "{regret:,.1f}",
        "±": "{stderr:,.1f}",
        "excess": "{excess:.1%}",
        f"within {NEAR:.0%}": "{within}",
    }
    lines = []
    for row in rows:
        name, near = "all" if row["group"] is None else row["group"], "yes" if row["near"] else "no"
        lines.append({**row, "name": name, "within": near})
    table = format_table("bits of a sequence", columns, lines)
    for made, row in zip(table.rows, rows, strict=True):
        made.end_section = row["group"] is None
    return table


# Figures


def plot_positions(rows: Sequence[Row], training_length: int | None = None) -> Figure:
    """Loss by position on a logarithmic axis, with a band of two standard errors."""
    figure, (axis,) = _panels(1, 7)
    middle, losses = [_middle(row) for row in rows], [row["loss"] for row in rows]
    axis.plot(middle, losses, "o-", markersize=4)
    band = np.asarray(_errors(rows))
    axis.fill_between(middle, losses - band, losses + band, alpha=0.25)
    if training_length is not None:
        label = f"trained on {training_length}"
        axis.axvline(training_length, color="grey", linestyle="--", label=label)
        axis.legend(fontsize="small")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="position (tokens)", ylabel="loss (nats per token)")
    return figure


def readout_table(rows: Sequence[Row], times: int) -> Table:
    """Bits a byte by what a read-out reads, a column for each reading."""
    bits = {name: [] for name in dict.fromkeys(row["form"] for row in rows)}
    for row in rows:
        bits[row["form"]].append(f"{row['bits_per_byte']:.3f}")
    columns = ["read", *(f"reading {n + 1}" for n in range(times))]
    return make_table("bits a byte", columns, [[name, *x] for name, x in bits.items()], ["read"])


def plot_readout(curves: dict[str, list[float]], block: int, second: int | None) -> Figure:
    """Bits a token by what was read before; a line where the second reading begins."""
    figure, (axis,) = _panels(1, 7)
    for name, bits in curves.items():
        axis.plot((np.arange(len(bits)) + 0.5) * block, bits, label=name)
    if second is not None:
        axis.axvline(second, color="grey", linestyle="--", label="read again")
    axis.set(xlabel="tokens read before", ylabel="bits a token")
    axis.legend(fontsize="small")
    return figure


def plot_recall(
    groups: Sequence[Row], distances: Sequence[Row], slices: str, levels: Sequence[float]
) -> Figure:
    """Accuracy by group and by distance, side by side, with the levels of chance dotted."""
    figure, axes = _panels(2, 10, sharey=True)
    for axis, rows, field, label in (
        (axes[0], groups, "group", slices.replace("_", " ")),
        (axes[1], distances, "distance", "tokens from the pair to its query, at least"),
    ):
        rows = [row for row in rows if row[field] is not None]
        for name in dict.fromkeys(row["evaluation"] for row in rows):
            found = [row for row in rows if row["evaluation"] == name]
            axis.plot([r[field] for r in found], [r["accuracy"] for r in found], "o-", label=name)
        for level in sorted(set(levels)):
            axis.axhline(level, color="grey", linestyle=":")
        keys = sorted({row[field] for row in rows})
        if keys and keys[0] > 0:
            _log_axis(axis, keys)
        axis.set_xlabel(label)
    axes[0].set(ylabel="accuracy", ylim=(-0.02, 1.02))
    axes[0].legend(fontsize="small")
    return figure


def plot_ngrams(rows: Sequence[Row]) -> Figure:
    """Loss by distance to the last occurrence, with that of new and of known tokens as lines."""
    figure, (axis,) = _panels(1, 7)
    back = [row for row in rows if row["kind"] == "repeated" and row["loss"] is not None]
    middle = [(row["start"] * (row["stop"] - 1)) ** 0.5 for row in back]
    losses = [row["loss"] for row in back]
    axis.errorbar(middle, losses, _errors(back), fmt="o-", markersize=4, label="repeated")
    for kind, style in (("new", "--"), ("known", ":")):
        loss = next(row["loss"] for row in rows if row["kind"] == kind)
        if loss is not None:
            axis.axhline(loss, color="grey", linestyle=style, label=kind)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="tokens since the last occurrence", ylabel="loss (nats per token)")
    axis.legend(fontsize="small")
    return figure


def plot_regret(
    rows: Sequence[Row], positions: Sequence[Row], counted: str, training_length: int
) -> Figure:
    """Three panels: bits a symbol and total regret by position, and regret by group.

    ``rows`` are of ``regret.by_length``, ``positions`` of ``regret.by_position``.
    """
    figure, axes = _panels(3, 13)
    middle = [_middle(row) for row in positions]
    for name, style in (("model", "o-"), ("oracle", "k--")):
        axes[0].plot(middle, [row[name] for row in positions], style, markersize=4, label=name)
    axes[0].set(xlabel="position", ylabel="bits a symbol")
    ends, totals = zip(*((row["stop"], row["total"]) for row in positions), strict=True)
    axes[1].plot(ends, totals, "o-", markersize=4)
    axes[1].axhline(0, color="black", linestyle="--", label="oracle")
    axes[1].set(xlabel="symbols", ylabel="regret so far (bits)")
    label = f"trained on {training_length:,}"
    for axis in axes[:2]:
        axis.axvline(training_length, color="grey", linestyle=":", label=label)
    grouped = [row for row in rows if row["group"] is not None]
    for length in dict.fromkeys(row["length"] for row in grouped):
        found = [row for row in grouped if row["length"] == length]
        groups, regrets = zip(*((row["group"], row["regret"]) for row in found), strict=True)
        name = f"{length:,} symbols"
        axes[2].errorbar(groups, regrets, _errors(found), fmt="o-", markersize=4, label=name)
    axes[2].axhline(0, color="black", linestyle="--")
    axes[2].set(xlabel=counted.replace("_", " "), ylabel="regret (bits a sequence)")
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.legend(fontsize="small")
    _log_axis(axes[2], sorted({row["group"] for row in grouped}))
    return figure


def _panels(count: int, width: float, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, **options)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, list(axes)


def _middle(row: Row) -> float:
    """Geometric middle of a bucket of positions, counted from 1."""
    return ((row["start"] + 1) * row["stop"]) ** 0.5


def _errors(rows: Iterable[Row]) -> list[float]:
    return [2 * (row["stderr"] or 0.0) for row in rows]


def _log_axis(axis: Axes, keys: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(keys, labels=[str(key) for key in keys])
