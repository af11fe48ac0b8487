"""Tables and figures of the recall study, from the runs that are there.

    python -m scripts.mqar.report [--runs runs/mqar] [--out docs/results]

Records the summaries of finished runs in mqar.json, beside those recorded before; prints
Markdown tables of all (mean over seeds, lowest and highest in brackets); and draws mqar.png and
mqar_gradual.png (accuracy by number of pairs, by either curriculum) and mqar_slots.png (accuracy
by eidetic slots).
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from bmojo.data.mqar import MQARConfig
from bmojo.evaluation.recall import query_distances
from scripts.records import by_cell, markdown, record, spread

TABLES = {
    "main": (
        "bmojo-slots64",
        "bmojo",
        "bmojo_f",
        "hybrid-lr0.002",
        "swa",
        "mamba",
        "transformer",
    ),
    "gradual": (
        "transformer-gradual",
        "bmojo-gradual-slots64",
        "bmojo-gradual",
        "hybrid-gradual-bytes",
        "hybrid-gradual-memory",
        "swa-gradual-memory",
        "bmojo_f-gradual",
        "hybrid-gradual",
        "swa-gradual",
        "mamba-gradual",
    ),
    "slots": ("bmojo_f", "bmojo-slots8", "bmojo-slots16", "bmojo", "bmojo-slots64"),
}
"""Cells of the tables that the page shows in an order of their own."""


def accuracies(summaries: list[dict]) -> dict[int, np.ndarray]:
    """Accuracy of each seed by number of pairs."""
    rows = defaultdict(list)
    for summary in summaries:
        for row in summary["evaluations"]:
            if row["group"] is not None:
                rows[row["group"]].append(row["accuracy"])
    return {pairs: np.array(values) for pairs, values in sorted(rows.items())}


def table(cells: dict[str, list[dict]], names: list[str]) -> str:
    """A Markdown table of some cells."""
    pairs = sorted({p for name in names for p in accuracies(cells[name])})
    head = ["cell", "seeds", "parameters", "memory, bytes", *(f"{p} pairs" for p in pairs)]
    rows = []
    for name in names:
        first = cells[name][0]
        memory = first["state_bytes"] + first["key_value_bytes"]
        row = [name, len(cells[name]), f"{first['parameters']:,}", f"{memory:,}"]
        rows.append(row + [spread(list(values)) for values in accuracies(cells[name]).values()])
    return markdown(head, rows)


def within(window: int, pairs: tuple[int, ...], examples: int = 256) -> dict[int, float]:
    """Share of the questions whose value is among the last ``window`` tokens, by pairs."""
    shares = {}
    for count in pairs:
        task = MQARConfig(vocab_size=256, length=256, num_pairs=(count,))
        source, near = task.source(0, "test"), []
        for example in map(source.__getitem__, range(examples)):
            keys = query_distances(example["inputs"], example["targets"])
            near.append(keys[example["targets"] >= 0] <= window)
        shares[count] = float(np.concatenate(near).mean())
    return shares


def ceilings(cells: dict[str, list[dict]]) -> str:
    """A Markdown table of what a window alone can answer, for the windows of the study."""
    pairs = tuple(next(iter(accuracies(s) for s in cells.values())))
    head = ["window", *(f"{p} pairs" for p in pairs)]
    shares = {window: within(window, pairs).values() for window in (32, 72)}
    return markdown(head, [[w, *(f"{share:.2f}" for share in row)] for w, row in shares.items()])


def draw_pairs(cells: dict[str, list[dict]], names: list[str], path: Path) -> None:
    """Accuracy by number of pairs, mean and range over seeds."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name in names:
        by_pairs = accuracies(cells[name])
        x = list(by_pairs)
        (line,) = axes.plot(x, [v.mean() for v in by_pairs.values()], marker="o", label=name)
        low, high = ([f(v) for v in by_pairs.values()] for f in (np.min, np.max))
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
    axes.axhline(1 / 128, color="grey", linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [str(p) for p in x])
    axes.set(xlabel="key-value pairs", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_title("Recall over 256 tokens, window 32")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def draw_slots(cells: dict[str, list[dict]], out: Path) -> None:
    """Accuracy by number of eidetic slots."""
    slots = {0: "bmojo_f", 32: "bmojo"}
    slots |= {n: f"bmojo-slots{n}" for n in (8, 16, 64)}
    have = {n: accuracies(cells[c]) for n, c in sorted(slots.items()) if c in cells}
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for pairs in next(iter(have.values())):
        values = [by_pairs[pairs] for by_pairs in have.values()]
        (line,) = axes.plot(list(have), [v.mean() for v in values], marker="o", label=f"{pairs}")
        low, high = ([f(v) for v in values] for f in (np.min, np.max))
        axes.fill_between(list(have), low, high, color=line.get_color(), alpha=0.2)
    axes.set(xlabel="eidetic slots (0 is B'MOJO-F)", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_xticks(list(have))
    axes.legend(title="pairs", frameon=False)
    axes.set_title("Recall over 256 tokens by eidetic slots")
    figure.savefig(out / "mqar_slots.png", dpi=130)


def main() -> None:
    """Print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/mqar"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cells = by_cell(record(args.runs, args.out / "mqar.json"))
    if not cells:
        raise SystemExit(f"no finished runs in {args.runs}; make some with bmojo sweep")
    shown = set()
    for title, names in TABLES.items():
        have = [name for name in names if name in cells]
        if have:
            print(f"{title}\n\n{table(cells, have)}\n")
        shown.update(have)
    if rest := sorted(set(cells) - shown):
        print(f"others\n\n{table(cells, rest)}")
    print(f"\nshare of the questions whose value is within the window\n\n{ceilings(cells)}")
    for title, file in (("main", "mqar.png"), ("gradual", "mqar_gradual.png")):
        if have := [name for name in TABLES[title] if name in cells]:
            draw_pairs(cells, have, args.out / file)
    draw_slots(cells, args.out)


if __name__ == "__main__":
    main()
