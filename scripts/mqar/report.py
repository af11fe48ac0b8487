"""Tables and figures of the recall study, from the runs that are there.

    python -m scripts.mqar.report [--runs runs/mqar] [--records results] [--out docs/results]

Records the summaries of finished runs in mqar.json, beside those recorded before; prints
Markdown tables of all (mean over seeds, lowest and highest in brackets); and draws mqar.png and
mqar_gradual.png (accuracy by number of pairs, by either curriculum) and mqar_slots.png (accuracy
by eidetic slots).
"""

from collections import defaultdict

import numpy as np

from bmojo.data.mqar import MQARConfig
from bmojo.evaluation.recall import query_distances
from scripts.mqar.figures import draw_pairs, draw_slots
from scripts.records import by_cell, markdown, parser, record, spread

TABLES = {
    "main": "bmojo-slots64 bmojo bmojo_f hybrid-lr0.002 swa mamba transformer",
    "gradual": "transformer-gradual bmojo-gradual-slots64 bmojo-gradual hybrid-gradual-bytes "
    "hybrid-gradual-memory swa-gradual-memory bmojo_f-gradual hybrid-gradual swa-gradual "
    "mamba-gradual",
    "slots": "bmojo_f bmojo-slots8 bmojo-slots16 bmojo bmojo-slots64",
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


def within(window: int, count: int, examples: int = 256) -> float:
    """Share of the questions on ``count`` pairs whose value is among the last ``window`` tokens."""
    task = MQARConfig(vocab_size=256, length=256, num_pairs=(count,))
    source, near = task.source(0, "test"), []
    for example in map(source.__getitem__, range(examples)):
        keys = query_distances(example["inputs"], example["targets"])
        near.append(keys[example["targets"] >= 0] <= window)
    return float(np.concatenate(near).mean())


def ceilings(pairs: list[int]) -> str:
    """A Markdown table of what a window alone can answer, for the windows of the study."""
    rows = [[window, *(f"{within(window, p):.2f}" for p in pairs)] for window in (32, 72)]
    return markdown(["window", *(f"{p} pairs" for p in pairs)], rows)


def main() -> None:
    """Print the tables and draw the figures."""
    args = parser(__doc__, "runs/mqar").parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cells = by_cell(record(args.runs, args.records / "mqar.json"))
    if not cells:
        raise SystemExit(f"no finished runs in {args.runs}; make some with bmojo sweep")
    have = {title: [n for n in names.split() if n in cells] for title, names in TABLES.items()}
    for title, names in have.items():
        if names:
            print(f"{title}\n\n{table(cells, names)}\n")
    if rest := sorted(set(cells) - {name for names in have.values() for name in names}):
        print(f"others\n\n{table(cells, rest)}")
    found = {name: accuracies(runs) for name, runs in cells.items()}
    pairs = list(next(iter(found.values())))
    print(f"\nshare of the questions whose value is within the window\n\n{ceilings(pairs)}")
    for title, file in (("main", "mqar.png"), ("gradual", "mqar_gradual.png")):
        if have[title]:
            draw_pairs({name: found[name] for name in have[title]}, args.out / file)
    draw_slots(found, args.out / "mqar_slots.png")


if __name__ == "__main__":
    main()
