"""Figure of the parts of a layer by operations a byte, under the measured rooflines."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from bmojo.benchmark.machine import CALIBRATION
from bmojo.benchmark.operations import FORWARD, GRADIENT
from bmojo.benchmark.results import Results
from scripts.performance.programs import WHOLE_LAYER
from scripts.performance.rates import GROUPS, INTENSITY, copy_rate, gemm_rate
from scripts.performance.steps import PARTS

MARKERS = ("o", "s", "D")


def draw_roofline(results: Results, path: Path) -> None:
    """Parts by operations a byte and operations a second, under the measured roofs."""
    gemm, copy = gemm_rate(results), copy_rate(results)
    figure, axis = plt.subplots(figsize=(10, 5.6), layout="constrained")
    colors = dict(zip((*PARTS, WHOLE_LAYER), map(plt.get_cmap("tab10"), range(10)), strict=True))
    seen: dict[str, Any] = {}
    points: list[tuple[float, float]] = []
    titles = GROUPS
    for group, members in results.groups().items():
        if group == CALIBRATION:
            continue
        title, _, kind = group.rpartition(", ")
        marker = MARKERS[titles.index(title)]
        for row in members:
            intensity = row.facts[INTENSITY]
            if intensity is None or row.gflops is None:
                continue
            color = colors.get(row.case, "black")
            points.append((intensity, row.gflops.median))
            face = color if kind == GRADIENT else "none"
            axis.plot(*points[-1], marker, color=color, markerfacecolor=face, markersize=8)
            if row.case not in colors:
                if kind == GRADIENT:
                    axis.annotate(
                        row.case, points[-1], (9, -3), textcoords="offset points", fontsize=7
                    )
            else:
                seen[row.case] = Line2D([], [], color=color, marker="o", ls="")
    low = min(x for x, _ in points) / 2
    high = max(max(x for x, _ in points) * 2, gemm / copy * 4)
    axis.plot([low, gemm / copy, high], [low * copy / 1e9, gemm / 1e9, gemm / 1e9], color="gray")
    axis.annotate(
        f"matrix product, {gemm / 1e9:.0f} GFLOP/s",
        (high, gemm / 1e9),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    axis.annotate(
        f"copy, {copy / 1e9:.1f} GB/s",
        (low, low * copy / 1e9),
        xytext=(8, -12),
        textcoords="offset points",
        fontsize=9,
    )
    axis.set(xscale="log", yscale="log", xlim=(low, high))
    axis.set_xlabel("operations for each byte of arguments and results")
    axis.set_ylabel("GFLOP/s")
    axis.grid(which="major", alpha=0.25)
    shapes = {
        title: Line2D([], [], color="black", marker=marker, ls="", markerfacecolor="none")
        for title, marker in zip(titles, MARKERS, strict=True)
    }
    kinds = {
        FORWARD: Line2D([], [], color="gray", marker="o", ls="", markerfacecolor="none"),
        GRADIENT: Line2D([], [], color="gray", marker="o", ls=""),
    }
    entries = {name: seen[name] for name in colors if name in seen} | shapes | kinds
    figure.legend(
        entries.values(), entries.keys(), loc="outside right center", fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
