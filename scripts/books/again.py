"""Passages of the test books that come again within one text: who saves what on them.

    python -m scripts.books.again RUN [RUN ...] [--slots 0 64] [--gaps 0 384] [--passage 128]

Each run is read with its own slots, or with each number of --slots in their place: nothing in
the layer depends on how many there are. Results go to RUN/evaluation/passages.json, beside those
for other numbers of slots, gaps and passages. Bits a byte: of the passage read before, of the same
passage behind another one, and the difference; and the share of the passage that is in the last
layer's slots when it comes again.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bmojo.evaluation.documents import run_documents
from bmojo.evaluation.memory.trace import read
from bmojo.evaluation.repeated_passages import measure_passages, passage_pairs
from bmojo.runs import open_run


def held(model, documents, passage: int, gap: int, count: int = 8) -> float | None:
    """The share of passages that sits in the last layer's slots when they come again."""
    shares = []
    for text in passage_pairs(documents, passage, gap, count)[0]:
        layers = read(model, text[:-passage]).layers
        if not layers or not layers[-1].chunk:
            return None
        shares.append(np.sum(layers[-1].kept < passage) / passage)
    return float(np.mean(shares))


def measure(run: Path, slots: int | None, args: argparse.Namespace) -> list[dict]:
    """Rows of one run with one number of slots."""
    changes = [] if slots is None else [f"BMojo.num_eidetic={slots}"]
    opened = open_run(run, overrides=changes)
    model, documents = opened.model, run_documents(opened.experiment)
    rows = []
    for found in measure_passages(model, documents, args.passage, args.gaps, args.texts):
        row = found | {"slots": slots, "passage": args.passage}
        for name in ("again", "other", "saved", "stderr"):
            row[name] /= np.log(2)
        row["by_place"] = [round(x / float(np.log(2)), 4) for x in row["by_place"]]
        row["held"] = held(model, documents, args.passage, row["gap"]) if args.held else None
        rows.append(row)
        print(
            f"{run.name:40} slots {slots!s:>5} gap {row['gap']:5} again {row['again']:.3f} "
            f"other {row['other']:.3f} saved {row['saved']:.3f} ± {row['stderr']:.3f} "
            f"held {row['held']}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--slots", type=int, nargs="+", default=[None])
    parser.add_argument("--gaps", type=int, nargs="+", default=[0, 128, 384, 896, 3968])
    parser.add_argument("--passage", type=int, default=128)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--held", action="store_true", help="also look into the slots")
    args = parser.parse_args()
    for run in args.runs:
        path = run / "evaluation" / "passages.json"
        path.parent.mkdir(exist_ok=True)
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        for slots in args.slots:
            new = measure(run, slots, args)
            keys = {(r["slots"], r["gap"], r["passage"]) for r in new}
            rows = [r for r in rows if (r["slots"], r["gap"], r["passage"]) not in keys] + new
            path.write_text(json.dumps({"rows": rows}) + "\n")


if __name__ == "__main__":
    main()
