"""Bits a byte of the study of books by position: a table and a figure."""

from pathlib import Path

import numpy as np

from scripts.curves import curve, figure, legend_beside, save
from scripts.records import markdown, spread

TRAINED = 1024


def octaves(rows: list[dict], first: int = 64) -> dict[int, float]:
    """Bits of the bytes at positions [P, 2P), for each power of two P from ``first`` on."""
    sums: dict[int, list[float]] = {}
    for row in rows:
        if row["start"] >= first:
            total = sums.setdefault(1 << (row["start"].bit_length() - 1), [0.0, 0.0])
            total[0] += row["loss"] * row["count"] / np.log(2)
            total[1] += row["count"]
    return {start: total / count for start, (total, count) in sums.items()}


def length(cells: dict[str, list[dict]]) -> str:
    """Bits a byte by octave of positions, behind those of the same text in windows of 1024."""
    rows, starts = [], [TRAINED << p >> 1 for p in range(6)]
    for name, runs in cells.items():
        found = [octaves(run["length"]) for run in runs]
        fresh = [octaves(run["perplexity"])[TRAINED // 2] for run in runs if "perplexity" in run]
        shown = [spread([run[s] for run in found], 2) for s in starts]
        rows.append([name, len(found), spread(fresh, 2) if fresh else "", *shown])
    return markdown(["cell", "seeds", "fresh, 512", *(f"from {s:,}" for s in starts)], rows)


def draw_length(cells: dict[str, list[dict]], path: Path) -> None:
    """Bits a byte by octave of positions of the cells that were measured."""
    drawn, axes = figure(figsize=(8, 4.6))
    for number, (name, runs) in enumerate(cells.items()):
        found = [octaves(run["length"]) for run in runs]
        x = [start * 2**0.5 for start in found[0]]
        values = zip(*(run.values() for run in found), strict=True)
        curve(axes, x, list(values), marker="osD^vP*X"[number % 8], markersize=5, label=name)
    axes.axvline(TRAINED, color="grey", linestyle="--", label=f"position {TRAINED:,}")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="position", ylabel="bits a byte, test books")
    axes.grid(alpha=0.3)
    legend_beside(axes)
    save(drawn, path)
