"""Regret on the terminal and as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from bmojo.evaluation.regret import NEAR

__all__ = ["plot_regret", "regret_table"]

Row = Mapping[str, Any]


def regret_table(rows: Sequence[Row], counted: str) -> Table:
    """Bits of a sequence by length and group.

    Args:
      rows: of :func:`bmojo.evaluation.regret.by_length`.
      counted: what groups count.
    """
    table = Table(title="bits of a sequence")
    columns = ("length", counted.replace("_", " "), "sequences", "source", "oracle", "model")
    for name in (*columns, "regret", "±", "excess", f"within {NEAR:.0%}"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['length']:,}",
            "all" if row["group"] is None else str(row["group"]),
            str(row["sequences"]),
            *(f"{row[name]:,.1f}" for name in ("source", "oracle", "model", "regret")),
            "" if row["stderr"] is None else f"{row['stderr']:,.1f}",
            "" if row["excess"] is None else f"{row['excess']:.1%}",
            "yes" if row["near"] else "no",
            end_section=row["group"] is None,
        )
    return table


def plot_regret(
    rows: Sequence[Row], positions: Sequence[Row], counted: str, training_length: int
) -> Figure:
    """Three panels: bits a symbol and total regret by position, and regret by group.

    Args:
      rows: of :func:`bmojo.evaluation.regret.by_length`.
      positions: of :func:`bmojo.evaluation.regret.by_position`.
      counted: what groups count.
      training_length: where the dashed lines are.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    middle = [((row["start"] + 1) * row["stop"]) ** 0.5 for row in positions]
    for name, style in (("model", "o-"), ("oracle", "k--")):
        axes[0].plot(middle, [row[name] for row in positions], style, markersize=4, label=name)
    axes[0].set(xlabel="position", ylabel="bits a symbol")
    axes[1].plot(
        [row["stop"] for row in positions], [row["total"] for row in positions], "o-", markersize=4
    )
    axes[1].axhline(0, color="black", linestyle="--", label="oracle")
    axes[1].set(xlabel="symbols", ylabel="regret so far (bits)")
    for axis in axes[:2]:
        axis.axvline(
            training_length, color="grey", linestyle=":", label=f"trained on {training_length:,}"
        )
    for length in dict.fromkeys(row["length"] for row in rows):
        found = [row for row in rows if row["length"] == length and row["group"] is not None]
        axes[2].errorbar(
            [row["group"] for row in found],
            [row["regret"] for row in found],
            [2 * (row["stderr"] or 0.0) for row in found],
            fmt="o-",
            markersize=4,
            label=f"{length:,} symbols",
        )
    groups = sorted({row["group"] for row in rows if row["group"] is not None})
    axes[2].axhline(0, color="black", linestyle="--")
    axes[2].set(xlabel=counted.replace("_", " "), ylabel="regret (bits a sequence)")
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[2].set_xticks(groups, labels=[str(group) for group in groups])
    return figure
