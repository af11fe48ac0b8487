"""Rows of regret of recorded runs, and their figure by bytes of state."""

from pathlib import Path

import numpy as np

from bmojo.evaluation.regret import NEAR
from scripts.curves import figure, legend_beside, save

SOURCES = {
    "markov": ("variable-order Markov sources", "leaves, up to"),
    "programs": ("random programs", "instructions, up to"),
}
"""Title, and what groups count."""

Runs = list[dict]


def measured(runs: Runs, length: int, group: int | None = None) -> list[dict]:
    """The rows of regret of each seed; none of those that have no such row."""
    return [
        row
        for run in runs
        for row in run["regret"]
        if (row["length"], row["group"]) == (length, group)
    ]


def values(rows: list[dict], field: str) -> list[float]:
    """A field of each row that has it."""
    return [row[field] for row in rows if row[field] is not None]


def verdict(rows: list[dict]) -> str:
    """Whether all seeds are near the oracle."""
    near = sum(row["near"] for row in rows)
    return {0: "no", len(rows): "yes"}.get(near, f"{near} of {len(rows)} seeds")


def memory(run: dict) -> int:
    """Bytes of a row's state at the longest training length."""
    return run["state_bytes"] + run["key_value_bytes"]


def draw(found: dict[str, tuple[dict[str, Runs], int]], path: Path) -> None:
    """Regret by bytes of state, a panel for each source."""
    drawn, panels = figure(1, len(found), figsize=(5 * len(found) + 1.5, 4), squeeze=False)
    for axes, (source, (cells, length)) in zip(panels.flat, found.items(), strict=True):
        for number, (name, runs) in enumerate(sorted(cells.items())):
            regret = np.asarray(values(measured(runs, length), "regret"))
            mean = regret.mean()
            axes.errorbar(
                memory(runs[0]),
                mean,
                [[mean - regret.min()], [regret.max() - mean]],
                fmt="o",
                color=f"C{number}",
                capsize=3,
                label=name,
            )
        oracle = np.mean([v for r in cells.values() for v in values(measured(r, length), "oracle")])
        label = f"{NEAR:.0%} of the oracle's loss"
        axes.axhline(NEAR * oracle, color="grey", linestyle=":", label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1024:g} KiB")
        axes.set(title=SOURCES[source][0], xlabel="state of one sequence")
        axes.set_ylabel(f"regret over {length:,} symbols (bits)")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(alpha=0.3)
    legend_beside(panels.flat[-1])
    save(drawn, path)
