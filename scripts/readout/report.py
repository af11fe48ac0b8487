"""Tables and figure of the study of read-outs, from the runs that are there.

    python -m scripts.readout.report [--runs runs/readout] [--records results]

Records the summaries of finished runs in readout.json, and what scripts.readout.entries measured of
them, beside those recorded before; prints Markdown tables of bits a byte without and with a ring
(mean over seeds, lowest and highest in brackets), and by what is read of whole books; and draws
readout.png, bits a byte against what has been read.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from scripts.records import by_cell, markdown, parser, record, spread, write

MODELS = ("mamba2", "bmojo", "hybrid", "transformer")
DRAWN = {"head": "head alone", "ring-1024": "ring of 1,024", "ring-1024-matched-4": "and matches"}


def gain(cells: dict[str, list[dict]]) -> str:
    """Bits a byte of the validation books in windows of 1,024."""
    rows = []
    for model in MODELS:
        runs = [cells.get(f"{model}-{cell}", []) for cell in ("head", "ring")]
        if not all(runs):
            continue
        bits = [[run["evaluations"][-1]["bits_per_byte"] for run in part] for part in runs]
        gained = [a - b for a, b in zip(*bits, strict=False)]
        extra = runs[1][0]["parameters"] - runs[0][0]["parameters"]
        rows.append(
            [model, min(map(len, bits)), *(spread(x, 3) for x in (*bits, gained)), f"{extra:,}"]
        )
    return markdown(["model", "seeds", "head", "with ring", "gain", "more parameters"], rows)


def entries(measured: dict[str, dict[str, Any]]) -> str:
    """Bits a byte of the last quarter of whole books, by what is read."""
    rows = [
        [name, *(f"{x:.3f}" for x in (np.mean(found["bits"]), *found["bits"]))]
        for name, found in measured.items()
    ]
    texts = [name.split("_")[0] for name in next(iter(measured.values()))["texts"]]
    return markdown(["read", "mean", *texts], rows)


def draw(measured: dict[str, dict[str, Any]], path: Path) -> None:
    """Bits a byte by position."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for form, label in DRAWN.items():
        if form in measured:
            bits = measured[form]["blocks"]
            axes.plot(4 * (np.arange(len(bits)) + 0.5), bits, label=label)
    axes.set(xlabel="read before, KiB", ylabel="bits a byte")
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Record, print, draw."""
    args = parser(__doc__, "runs/readout").parse_args()
    cells = by_cell(record(args.runs, args.records / "readout.json"))
    print(gain(cells))
    path = args.records / "readout_entries.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for file in sorted(args.runs.glob("*/evaluation/entries.json")):
        known[file.parts[-3]] = json.loads(file.read_text())
    for run, measured in write(known, path).items():
        print(f"\n{run}\n\n{entries(measured)}")
    if known:
        draw(next(iter(known.values())), args.out / "readout.png")


if __name__ == "__main__":
    main()
