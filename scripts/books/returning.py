"""Tables and figure of the study of passages that return, from the runs that are there.

    python -m scripts.books.returning [--runs runs/returning] [--out docs/results]

Records finished runs in books_returning.json with what ``bmojo eval --eval returns`` and
``python -m scripts.books.again`` have measured; prints tables of bits a byte (mean over seeds,
lowest and highest in brackets): of the validation books, of what a second reading saves by slots
and gap, and of what returns in ordinary text by distance; and draws books_returning.png.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from scripts.records import by_cell, markdown, record, spread


def saved(runs: list[dict], passage: int) -> dict[tuple[int | None, int], list[dict]]:
    """Rows of all seeds by number of slots at the reading, and gap."""
    found = defaultdict(list)
    for run in runs:
        for row in run.get("again", ()):
            if row["passage"] == passage:
                found[row["slots"], row["gap"]].append(row)
    return dict(found)


def readings(cells: dict[str, list[dict]], passage: int) -> str:
    """What a second reading saves."""
    rows = []
    for name, runs in cells.items():
        for (slots, gap), seeds in sorted(saved(runs, passage).items(), key=str):
            held = [row["held"] for row in seeds if row["held"] is not None]
            columns = (spread([row[c] for row in seeds], 3) for c in ("other", "again", "saved"))
            rows.append([name, len(seeds), "own" if slots is None else slots, passage + gap,
                         *columns, spread(held) if held else ""])  # fmt: skip
    head = ["trained", "seeds", "slots at reading", "bytes ago", "not read before", "read before",
            "saved", "passage in slots"]  # fmt: skip
    return markdown(head, rows)


def returns(cells: dict[str, list[dict]]) -> str:
    """Bits a byte of ordinary test text by kind of byte and distance."""
    rows = []
    for name, runs in cells.items():
        found = [run["returns"] for run in runs if "returns" in run]
        for parts in zip(*found, strict=False):
            if parts[0]["loss"] is not None and (parts[0]["start"] or 64) >= 32:
                what = parts[0]["kind"] if parts[0]["start"] is None else f"{parts[0]['start']} ago"
                values = [part["loss"] / np.log(2) for part in parts]
                rows.append([name, len(parts), what, parts[0]["count"], spread(values, 3)])
    return markdown(["trained", "seeds", "bytes", "count", "bits a byte"], rows)


def draw(cells: dict[str, list[dict]], passage: int, path: Path) -> None:
    """Bits a byte that a second reading saves, by slots, a line for each training and gap."""
    figure, axes = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    styles = dict(zip(cells, ("-", "--", ":"), strict=False))
    for name, runs in cells.items():
        found = {key: rows for key, rows in saved(runs, passage).items() if key[0] is not None}
        for number, gap in enumerate(sorted({gap for _, gap in found})):
            slots = sorted(s for s, g in found if g == gap)
            values = [[row["saved"] for row in found[s, gap]] for s in slots]
            label = f"{name}, {passage + gap} bytes ago"
            color = f"C{number}"
            places = range(len(slots))
            axes.plot(places, [np.mean(v) for v in values], styles[name], color=color,
                      marker="o", markersize=4, label=label)  # fmt: skip
            low, high = ([f(v) for v in values] for f in (np.min, np.max))
            axes.fill_between(places, low, high, color=color, alpha=0.15)
            axes.set_xticks(places, [str(s) for s in slots])
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="eidetic slots at the reading", ylabel="bits a byte saved, second reading")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/returning"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--passage", type=int, default=128)
    args = parser.parse_args()
    cells = by_cell(record(args.runs, args.out / "books_returning.json"))
    ordinary = [[name, len(runs), f"{runs[0]['tokens']:,}",
                 spread([run["evaluations"][-1]["bits_per_byte"] for run in runs], 3)]
                for name, runs in cells.items()]  # fmt: skip
    print(markdown(["trained", "seeds", "tokens", "bits a byte"], ordinary), end="\n\n")
    print(readings(cells, args.passage), returns(cells), sep="\n\n")
    draw(cells, args.passage, args.out / "books_returning.png")


if __name__ == "__main__":
    main()
