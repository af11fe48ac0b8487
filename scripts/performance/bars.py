"""Figure of the time of a layer by part."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from bmojo.benchmark.operations import FORWARD, GRADIENT
from bmojo.benchmark.results import Results
from scripts.performance.rates import AT_GEMM, GROUPS


def draw_parts(results: Results, path: Path) -> None:
    """Time by part: forward and gradient as bars, and what it would be at the GEMM's rate."""
    groups = results.groups()
    titles = [t for t in GROUPS if f"{t}, {GRADIENT}" in groups]
    sizes = [len(groups[f"{title}, {GRADIENT}"]) + 1 for title in titles]
    figure, axes = plt.subplots(
        len(titles),
        figsize=(9, 0.33 * sum(sizes) + 1.2),
        height_ratios=sizes,
        layout="constrained",
        squeeze=False,
    )
    for axis, title in zip(axes[:, 0], titles, strict=True):
        both = {row.case: row for row in groups[f"{title}, {GRADIENT}"]}
        ahead = {row.case: row for row in groups.get(f"{title}, {FORWARD}", [])}
        places = range(len(both))
        total = [row.seconds.median * 1e3 for row in both.values()]
        first = [ahead[name].seconds.median * 1e3 if name in ahead else 0.0 for name in both]
        rest = [max(0.0, all_ - part) for all_, part in zip(total, first, strict=True)]
        axis.barh(places, first, color="#33658a", label="forward")
        axis.barh(places, rest, left=first, color="#86bbd8", label="gradient")
        ideal = [row.facts[AT_GEMM] for row in both.values()]
        known = [(value, place) for value, place in zip(ideal, places, strict=True) if value]
        axis.plot(*zip(*known, strict=True), "|", color="#c1121f", markersize=13, markeredgewidth=2)
        for place, value in zip(places, total, strict=True):
            axis.annotate(
                f"{value:.1f}" if value >= 1 else f"{value:.2f}",
                (max(value, first[place], ideal[place] or 0.0), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axis.set_yticks(places, list(both), fontsize=9)
        axis.invert_yaxis()
        axis.margins(x=0.08)
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("ms")
    handles = [
        *axes[0, 0].get_legend_handles_labels()[0],
        Line2D([], [], color="#c1121f", marker="|", markersize=12, markeredgewidth=2, ls=""),
    ]
    labels = ["forward", "gradient", "both at the rate of a matrix product"]
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
