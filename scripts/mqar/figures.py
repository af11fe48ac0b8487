"""Figures of the recall study: accuracy by number of pairs, and by eidetic slots."""

from pathlib import Path
from typing import Any

from scripts.curves import curve, figure, legend_beside, save

Accuracies = dict[str, dict[int, Any]]
"""By cell and number of pairs, of each seed."""


def draw_pairs(found: Accuracies, path: Path) -> None:
    """Accuracy by number of pairs, mean and range over seeds."""
    drawn, axes = figure(figsize=(8, 4.2))
    for name, by_pairs in found.items():
        x = list(by_pairs)
        curve(axes, x, by_pairs.values(), marker="o", label=name)
    axes.axhline(1 / 128, color="grey", linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [str(p) for p in x])
    axes.set(xlabel="key-value pairs", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_title("Recall over 256 tokens, window 32")
    legend_beside(axes, fontsize=8)
    save(drawn, path)


def draw_slots(found: Accuracies, path: Path) -> None:
    """Accuracy by number of eidetic slots."""
    slots = {0: "bmojo_f", 32: "bmojo"} | {n: f"bmojo-slots{n}" for n in (8, 16, 64)}
    have = {n: found[cell] for n, cell in sorted(slots.items()) if cell in found}
    drawn, axes = figure(figsize=(6.4, 4.2))
    for pairs in next(iter(have.values())):
        curve(axes, list(have), [by[pairs] for by in have.values()], marker="o", label=f"{pairs}")
    axes.set(xlabel="eidetic slots (0 is B'MOJO-F)", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_xticks(list(have))
    axes.legend(title="pairs", frameon=False)
    axes.set_title("Recall over 256 tokens by eidetic slots")
    save(drawn, path)
