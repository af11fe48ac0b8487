"""Tables and figure of what slots pay on text, by how many there are at the reading.

    bmojo sweep configs/sweeps/rereading.gin "TEXT='DIR'"
    python -m scripts.books.again RUN --slots 0 16 64 256 --gaps 256 896 --passage 64 --texts 64
    for n in 0 64 256; do
      bmojo eval RUN BMojo.num_eidetic=$n ngrams perplexity --context 1024
      for k in ngrams perplexity; do cp RUN/evaluation/$k.json RUN/evaluation/$k-$n.json; done
    done
    python -m scripts.books.returning [--runs runs/rereading] [--out docs/results]

Records what was measured in books_returning.json, prints tables of bits a byte (mean over seeds,
lowest and highest in brackets) and draws books_returning.png.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from scripts.records import by_cell, markdown, record, spread

SLOTS = (0, 64, 256)


def readings(runs: list[dict]) -> dict[tuple[int, int], list[dict]]:
    """Rows of all seeds by bytes ago and slots, in order."""
    found = defaultdict(list)
    for run in runs:
        for row in run["again"]:
            found[row["passage"] + row["gap"], row["slots"]].append(row)
    return dict(sorted(found.items()))


def ordinary(runs: list[dict]) -> str:
    """Bits a byte of test text by kind of byte and distance, a column for each number of slots."""
    rows = []
    for i, row in enumerate(runs[0]["by_slots"]["0"]["returns"]):
        if row["count"] >= 200 and (row["start"] or 64) >= 64:
            what = row["kind"] if row["start"] is None else f"returns, {row['start']} ago"
            cells = [[run["by_slots"][str(n)]["returns"][i]["loss"] / np.log(2) for run in runs]
                     for n in SLOTS]  # fmt: skip
            rows.append([what, f"{row['count']:,}", *(spread(values) for values in cells)])
    bits = [[run["by_slots"][str(n)]["bits"] for run in runs] for n in SLOTS]
    rows.append(["all", "", *(spread(values, 3) for values in bits)])
    return markdown(["bytes", "count", *(f"{n} slots" for n in SLOTS)], rows)


def draw(found: dict[tuple[int, int], list[dict]], path: Path) -> None:
    """Bits a byte of passages by slots: read before, and not."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    slots = sorted({n for _, n in found})
    for number, ago in enumerate(sorted({ago for ago, _ in found})):
        for name, style in (("other", "--"), ("again", "-")):
            values = np.array([[row[name] for row in found[ago, n]] for n in slots])
            label = f"read {ago} bytes ago" if name == "again" else f"not read, {ago} bytes on"
            axes.plot(slots, values.mean(1), style, color=f"C{number}", marker="o", label=label)
            axes.fill_between(slots, values.min(1), values.max(1), color=f"C{number}", alpha=0.2)
    axes.set_xscale("symlog", base=2, linthresh=16)
    axes.set_xticks(slots, [str(n) for n in slots])
    axes.set(xlabel="eidetic slots at the reading", ylabel="bits a byte of the passage")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Record, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/rereading"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    path = args.out / "books_returning.json"
    known = record(args.runs, path)
    for name, run in known.items():
        for n in SLOTS if (args.runs / name).exists() else ():
            files = (
                args.runs / name / "evaluation" / f"{k}-{n}.json" for k in ("ngrams", "perplexity")
            )
            ngrams, perplexity = (json.loads(file.read_text()) for file in files)
            facts = {
                "returns": ngrams["rows"],
                "bits": perplexity["contexts"][-1]["bits_per_byte"],
            }
            run.setdefault("by_slots", {})[str(n)] = facts
        for extra in ("ngrams", "perplexity"):
            run.pop(extra, None)
    path.write_text(json.dumps(known, indent=1) + "\n")
    (runs,) = by_cell(known).values()
    found = readings(runs)
    rows = [[ago, n, *(spread([row[c] for row in seeds]) for c in ("other", "again", "saved"))]
            for (ago, n), seeds in found.items()]  # fmt: skip
    print(markdown(["bytes ago", "slots", "not read before", "read before", "saved"], rows))
    print(ordinary(runs), sep="\n")
    draw(found, args.out / "books_returning.png")


if __name__ == "__main__":
    main()
