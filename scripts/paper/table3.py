"""Table and figure of the four synthetic tasks, from the runs that are there.

    python -m scripts.paper.table3 [--runs runs/paper/table3_cpu] [--records results]

Records the summaries of finished runs in table3.json, beside those recorded before; prints a
Markdown table of accuracy over all difficulties (mean over seeds, lowest and highest in
brackets), one of each task by difficulty; and draws table3.png.
"""

from pathlib import Path

from scripts.curves import curve, figure, save
from scripts.records import by_cell, markdown, parser, record, spread

MODELS = ("bmojo", "bmojo_f", "hybrid", "mamba", "mamba2", "swa", "transformer")
TASKS = {
    "noisy_mqar": ("noisy recall", "pairs", 0.018),
    "fuzzy_mqar": ("fuzzy recall", "pairs", 0.031),
    "selective_copying": ("selective copying", "tokens to copy", 0.071),
    "induction_heads": ("induction heads", "tokens back", 0.067),
}
"""Title, what the groups count, and chance of each task."""


def accuracies(runs: list[dict]) -> dict[int | None, list[float]]:
    """Accuracy of each seed by group; None: over all."""
    found: dict[int | None, list[float]] = {}
    for run in runs:
        for row in run["evaluations"]:
            found.setdefault(row["group"], []).append(row["accuracy"])
    return found


def overall(cells: dict[str, list[dict]]) -> str:
    """All models on all tasks."""
    rows = []
    for model in MODELS:
        row = [model]
        for task in TASKS:
            runs = cells.get(f"{task}-{model}", [])
            count = f", {len(runs)} seeds" if len(runs) != 3 else ""
            row.append(spread(accuracies(runs)[None]) + count if runs else "not run")
        rows.append(row)
    return markdown(["model", *(title for title, *_ in TASKS.values())], rows)


def by_group(cells: dict[str, list[dict]], task: str) -> str:
    """One task by its difficulty, with parameters and memory."""
    have = [model for model in MODELS if f"{task}-{model}" in cells]
    groups = sorted(g for g in accuracies(cells[f"{task}-{have[0]}"]) if g is not None)
    rows = []
    for model in have:
        runs = cells[f"{task}-{model}"]
        memory = runs[0]["state_bytes"] + runs[0]["key_value_bytes"]
        inner = runs[0]["parameters"] - runs[0]["embedding_parameters"]
        values = accuracies(runs)
        rows.append([model, f"{inner:,}", f"{memory:,}", *(spread(values[g]) for g in groups)])
    head = ["model", "parameters", "memory, bytes", *(str(g) for g in groups)]
    return markdown(head, rows)


def draw(cells: dict[str, list[dict]], path: Path) -> None:
    """Accuracy by difficulty, a panel for each task."""
    drawn, panels = figure(2, 2, figsize=(9, 6.4), sharey=True)
    for axes, (task, (title, counted, chance)) in zip(panels.flat, TASKS.items(), strict=True):
        ticks: list[int] = []
        for number, model in enumerate(MODELS):
            runs = cells.get(f"{task}-{model}")
            if not runs:
                continue
            values = {g: v for g, v in accuracies(runs).items() if g is not None}
            ticks = sorted(values)
            style = {"marker": "o", "markersize": 4, "color": f"C{number}", "label": model}
            curve(axes, ticks, [values[g] for g in ticks], alpha=0.15, **style)
        axes.axhline(chance, color="grey", linestyle=":", label="chance")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set(title=title, xlabel=counted, ylim=(0, 1.03))
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right center", frameon=False)
    save(drawn, path)


def main() -> None:
    """Print the tables and draw the figure."""
    args = parser(__doc__, "runs/paper/table3_cpu").parse_args()
    cells = by_cell(record(args.runs, args.records / "table3.json"))
    if not cells:
        raise SystemExit(f"no finished runs in {args.runs}; make some with bmojo sweep")
    print(overall(cells))
    for task, (title, counted, _) in TASKS.items():
        print(f"\n{title}, by {counted}\n\n{by_group(cells, task)}")
    draw(cells, args.out / "table3.png")


if __name__ == "__main__":
    main()
