"""Bits a byte of the study of books by size: slopes and a figure."""

from pathlib import Path

import numpy as np

from scripts.curves import curve, figure, save
from scripts.records import markdown, spread

MODELS = ("bmojo", "bmojo_f", "hybrid", "mamba2", "mamba", "transformer")
SIZES = ("nano", "mini", "small")


def bits(summary: dict) -> float:
    """Bits per byte of the validation books."""
    return summary["evaluations"][-1]["bits_per_byte"]


def size(summary: dict) -> int:
    """Parameters outside the embedding."""
    return summary["parameters"] - summary["embedding_parameters"]


def slopes(cells: dict[str, list[dict]]) -> str:
    """d log(bits a byte) / d log(parameters): a line through the sizes' means, and its spread.

    The spread is over all choices of one seed for each size.
    """
    rows = []
    for model in MODELS:
        have = [cells[f"{model}-{s}"] for s in SIZES if f"{model}-{s}" in cells]
        if len(have) < 2:
            continue
        x = np.log([size(runs[0]) for runs in have])
        fits = []
        for choice in np.ndindex(*(len(runs) for runs in have)):
            chosen = [runs[i] for runs, i in zip(have, choice, strict=True)]
            fits.append(np.polyfit(x, np.log([bits(run) for run in chosen]), 1)[0])
        rows.append([model, len(have), spread(fits, 3)])
    return markdown(["model", "sizes", "slope"], rows)


def draw_scaling(cells: dict[str, list[dict]], path: Path) -> None:
    """Bits per byte by parameters outside the embedding, on logarithmic axes."""
    drawn, axes = figure(figsize=(7, 4.4))
    for model in MODELS:
        have = [cells[f"{model}-{s}"] for s in SIZES if f"{model}-{s}" in cells]
        if not have:
            continue
        x = [size(runs[0]) for runs in have]
        curve(axes, x, [[bits(run) for run in runs] for runs in have], marker="o", label=model)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1e5, 2e5, 5e5, 1e6], ["0.1M", "0.2M", "0.5M", "1M"])
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_minor_formatter("{x:.1f}")
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.set(xlabel="parameters outside the embedding", ylabel="bits a byte, validation")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    save(drawn, path)
