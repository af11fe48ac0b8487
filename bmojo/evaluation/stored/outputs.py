"""Tables and figures of what a store is good for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from bmojo.console import format_table

Row = Mapping[str, Any]


def needles_table(rows: Sequence[Row]) -> Table:
    """Accuracy and cost by tokens of filler, store off and on."""
    columns = {
        "filler": "{filler:,}",
        "store": "{on}",
        "right": "{right:.3f}",
        "ms/token": "{milliseconds:.2f}",
        "entries": "{entries:,.0f}",
        "MiB on disk": "{mib:,.1f}",
    }
    return format_table("facts asked for behind filler", columns, map(_shown, rows))


def drift_table(rows: Sequence[Row], versions: int) -> Table:
    """Accuracy on the last value, and how often a former one was said, by half-life."""
    columns = {
        "store": "{on}",
        "half-life, tokens": "{half_life}",
        "right": "{right:.3f}",
        "a former value": "{stale:.3f}",
        "entries": "{entries:,.0f}",
    }
    title = f"facts told {versions} times, each time with another value"
    return format_table(title, columns, map(_shown, rows))


def rereading_table(rows: Sequence[Row]) -> Table:
    """Bits per token of chapters, read alone, first, again, and of another with their store."""
    columns = {"chapter": "{chapter}", "tokens": "{tokens:,}", "without": "{alone:.3f}"}
    columns |= {"first": "{first:.3f}", "second": "{second:.3f}"}
    columns |= {"other, without": "{other_alone:.3f}", "other": "{other:.3f}"}
    columns["entries"] = "{entries:,}"
    losses = ("alone", "first", "second", "other_alone", "other")
    lines = (
        {**row, "chapter": number, **{name: row[name] / math.log(2) for name in losses}}
        for number, row in enumerate(rows)
    )
    return format_table("bits per token of chapters that are read twice", columns, lines)


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
    names = [_shown(row)["half_life"] or "store off" for row in rows]
    right, stale = ([row[name] for row in rows] for name in ("right", "stale"))
    axes.bar(names, right, label="the last value")
    axes.bar(names, stale, bottom=right, label="a former value")
    axes.axhline(chance, color="gray", linestyle=":", label="chance")
    axes.set(xlabel="half-life of the store's entries, tokens", ylabel="answers", ylim=(0, 1.03))
    axes.legend()
    return figure


def _shown(row: Row) -> dict[str, Any]:
    """A row as tables show it; without a store it has no entries and no half-life."""
    if not row["store"]:
        return {**row, "on": "off", "entries": None, "mib": None, "half_life": None}
    half_life = row.get("half_life")
    half_life = "none" if half_life is None else f"{half_life:,.0f}"
    return {**row, "on": "on", "mib": row["bytes"] / 2**20, "half_life": half_life}
