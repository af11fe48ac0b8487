"""Figures of several seeds: the mean as a line, from the lowest to the highest as a band."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes."""
    return plt.subplots(rows, columns, layout="constrained", **options)


def curve(axes: Any, x: Sequence[Any], values: Sequence[Sequence[float]], alpha=0.2, **style: Any):
    """A line through the means of ``values``, one for each x, and a band of their ranges."""
    mean, low, high = ([f(v) for v in values] for f in (np.mean, np.min, np.max))
    (line,) = axes.plot(x, mean, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=alpha)


def legend_beside(axes: Any, **options: Any) -> None:
    """A legend right of the axes."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), **options)


def save(figure: Any, path: Path) -> None:
    """Write a figure."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
