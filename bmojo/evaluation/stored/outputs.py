"""Tables and figures of what a store is good for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

__all__ = ["drift_table", "needles_table", "plot_drift", "plot_needles", "rereading_table"]

Row = Mapping[str, Any]


def needles_table(rows: Sequence[Row]) -> Table:
    """Accuracy and cost by tokens of filler, store off and on."""
    table = Table(title="facts asked for behind filler")
    for name in ("filler", "store", "right", "ms/token", "entries", "MiB on disk"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['filler']:,}",
            "on" if row["store"] else "off",
            f"{row['right']:.3f}",
            f"{row['milliseconds']:.2f}",
            f"{row['entries']:,.0f}" if row["store"] else "",
            f"{row['bytes'] / 2**20:,.1f}" if row["store"] else "",
        )
    return table


def drift_table(rows: Sequence[Row], versions: int) -> Table:
    """Accuracy on the last value, and how often a former one was said, by half-life."""
    table = Table(title=f"facts told {versions} times, each time with another value")
    for name in ("store", "half-life, tokens", "right", "a former value", "entries"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            "on" if row["store"] else "off",
            _half_life(row),
            f"{row['right']:.3f}",
            f"{row['stale']:.3f}",
            f"{row['entries']:,.0f}" if row["store"] else "",
        )
    return table


def rereading_table(rows: Sequence[Row]) -> Table:
    """Bits per token of chapters, read alone, first, again, and of another with their store."""
    table = Table(title="bits per token of chapters that are read twice")
    names = (
        "chapter",
        "tokens",
        "without",
        "first",
        "second",
        "other, without",
        "other",
        "entries",
    )
    for name in names:
        table.add_column(name, justify="right")
    for number, row in enumerate(rows):
        losses = ("alone", "first", "second", "other_alone", "other")
        table.add_row(
            str(number),
            f"{row['tokens']:,}",
            *(f"{row[name] / math.log(2):.3f}" for name in losses),
            f"{row['entries']:,}",
        )
    return table


def plot_needles(rows: Sequence[Row], chance: float) -> Figure:
    """Accuracy and time by tokens of filler."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    accuracy, cost = figure.subplots(1, 2)
    for on, name in ((True, "store on"), (False, "store off")):
        chosen = [row for row in rows if row["store"] == on]
        filler = [row["filler"] for row in chosen]
        accuracy.plot(filler, [row["right"] for row in chosen], "o-", label=name)
        cost.plot(filler, [row["milliseconds"] for row in chosen], "o-", label=name)
    accuracy.axhline(chance, color="gray", linestyle=":", label="chance")
    accuracy.set(ylabel="facts recalled", ylim=(-0.03, 1.03))
    cost.set(ylabel="ms per token")
    cost.set_ylim(bottom=0)
    for axes in (accuracy, cost):
        axes.set(xlabel="tokens of filler", xscale="log")
    accuracy.legend()
    return figure


def plot_drift(rows: Sequence[Row], chance: float) -> Figure:
    """Answers by half-life."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    names = [_half_life(row) if row["store"] else "store off" for row in rows]
    right, stale = ([row[name] for row in rows] for name in ("right", "stale"))
    axes.bar(names, right, label="the last value")
    axes.bar(names, stale, bottom=right, label="a former value")
    axes.axhline(chance, color="gray", linestyle=":", label="chance")
    axes.set(xlabel="half-life of the store's entries, tokens", ylabel="answers", ylim=(0, 1.03))
    axes.legend()
    return figure


def _half_life(row: Row) -> str:
    if not row["store"]:
        return ""
    return "none" if row["half_life"] is None else f"{row['half_life']:,.0f}"
