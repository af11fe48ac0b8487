"""Tables and figures of the study of books, from the runs that are there.

    python -m scripts.books.report [--runs runs/paper/figure2_cpu] [--out docs/results]

Records the summaries of finished runs in books.json, beside those recorded before; prints
Markdown tables (mean over seeds, lowest and highest in brackets) of bits per byte and of their
slopes by size; and draws books_scaling.png (bits per byte by parameters) and books_length.png
(loss by position, for runs that `bmojo eval RUN length` has measured). Runs of
configs/sweeps/text_documents.gin are shown beside them once recorded, by --runs
runs/text_documents.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from scripts.records import by_cell, markdown, record, spread

MODELS = ("bmojo", "bmojo_f", "hybrid", "mamba2", "mamba", "transformer")
SIZES = ("nano", "mini", "small")
DOCUMENTS = "bmojo-8192"
TRAINED = 1024


def bits(summary: dict) -> float:
    """Bits per byte of the validation books."""
    return summary["evaluations"][-1]["bits_per_byte"]


def size(summary: dict) -> int:
    """Parameters outside the embedding."""
    return summary["parameters"] - summary["embedding_parameters"]


def quality(cells: dict[str, list[dict]]) -> str:
    """Bits per byte, with what training took."""
    head = ["cell", "seeds", "parameters", "tokens", "bits a byte", "tokens a second", "minutes"]
    rows = []
    for name in (*(f"{model}-{s}" for s in SIZES for model in MODELS), DOCUMENTS):
        if name not in cells:
            continue
        runs = cells[name]
        speed = spread([run["tokens_per_second"] for run in runs], 0)
        minutes = spread([run["wall_seconds"] / 60 for run in runs], 1)
        facts = [name, len(runs), f"{size(runs[0]):,}", f"{runs[0]['tokens']:,}"]
        rows.append([*facts, spread([bits(run) for run in runs], 3), speed, minutes])
    return markdown(head, rows)


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
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for model in MODELS:
        have = [cells[f"{model}-{s}"] for s in SIZES if f"{model}-{s}" in cells]
        if not have:
            continue
        x = [size(runs[0]) for runs in have]
        values = [np.array([bits(run) for run in runs]) for runs in have]
        (line,) = axes.plot(x, [v.mean() for v in values], marker="o", label=model)
        low, high = ([f(v) for v in values] for f in (np.min, np.max))
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1e5, 2e5, 5e5, 1e6], ["0.1M", "0.2M", "0.5M", "1M"])
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_minor_formatter("{x:.1f}")
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.set(xlabel="parameters outside the embedding", ylabel="bits a byte, validation")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


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
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for number, (name, runs) in enumerate(cells.items()):
        found = [octaves(run["length"]) for run in runs]
        x = [start * 2**0.5 for start in found[0]]
        values = np.array([list(run.values()) for run in found])
        marker = "osD^vP*X"[number % 8]
        (line,) = axes.plot(x, values.mean(0), marker=marker, markersize=5, label=name)
        axes.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.2)
    axes.axvline(TRAINED, color="grey", linestyle="--", label=f"position {TRAINED:,}")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="position", ylabel="bits a byte, test books")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/paper/figure2_cpu"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    cells = by_cell(record(args.runs, args.out / "books.json"))
    if not cells:
        raise SystemExit(f"no finished runs in {args.runs}; make some with bmojo sweep")
    print(quality(cells), end="\n\n")
    print(slopes(cells), end="\n\n")
    draw_scaling(cells, args.out / "books_scaling.png")
    measured = {name: [run for run in runs if "length" in run] for name, runs in cells.items()}
    measured = {name: runs for name, runs in measured.items() if runs}
    if measured:
        print(length(measured))
        draw_length(measured, args.out / "books_length.png")


if __name__ == "__main__":
    main()
