"""Tables and a figure of regret, from the runs that are there.

    python -m scripts.universal.report [--runs runs/solomonoff] [--out docs/results]

For each source, a folder of RUNS: records the summaries of finished runs that
`bmojo eval RUN regret` has measured in universal_SOURCE.json, beside those recorded before;
prints Markdown tables (mean over seeds, lowest and highest in brackets), which also take the
place of those in OUT/universal.md if that page has marks for them; and draws universal.png, regret
by bytes of state.
"""

import argparse
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from bmojo.evaluation.regret import NEAR
from scripts.records import by_cell, markdown, record, spread

SOURCES = {
    "markov": ("variable-order Markov sources", "leaves, up to"),
    "programs": ("random programs", "instructions, up to"),
}
"""Title, and what groups count."""

Runs = list[dict]


def measured(runs: Runs, length: int, group: int | None = None) -> list[dict]:
    """The rows of regret of each seed; none of those that have no such row."""
    return [
        row
        for run in runs
        for row in run["regret"]
        if (row["length"], row["group"]) == (length, group)
    ]


def values(rows: list[dict], field: str) -> list[float]:
    """A field of each row that has it."""
    return [row[field] for row in rows if row[field] is not None]


def verdict(rows: list[dict]) -> str:
    """Whether all seeds are near the oracle."""
    near = sum(row["near"] for row in rows)
    return {0: "no", len(rows): "yes"}.get(near, f"{near} of {len(rows)} seeds")


def memory(run: dict) -> int:
    """Bytes of a row's state at the longest training length."""
    return run["state_bytes"] + run["key_value_bytes"]


def main_table(cells: dict[str, Runs], length: int) -> str:
    """Loss and regret of every model at the training length."""
    head = ["model", "seeds", "parameters", "state, bytes", "oracle", "loss", "regret"]
    rows = []
    for name, runs in cells.items():
        found = measured(runs, length)
        inner = runs[0]["parameters"] - runs[0]["embedding_parameters"]
        facts = [name, len(found), f"{inner:,}", f"{memory(runs[0]):,}"]
        bits = [spread(values(found, field), 1) for field in ("oracle", "model", "regret")]
        excess = spread([100 * value for value in values(found, "excess")], 1)
        rows.append([*facts, *bits, excess, verdict(found)])
    return markdown([*head, "excess, %", f"within {NEAR:.0%}"], rows)


def length_table(cells: dict[str, Runs], lengths: list[int]) -> str:
    """Excess over the oracle by length."""
    rows = []
    for name, runs in cells.items():
        row = [name]
        for length in lengths:
            found = [100 * value for value in values(measured(runs, length), "excess")]
            row.append(spread(found, 1) if found else "")
        rows.append(row)
    return markdown(["excess over the oracle, %", *(f"{n:,} symbols" for n in lengths)], rows)


def group_table(cells: dict[str, Runs], length: int, counted: str) -> str:
    """Regret by complexity at the training length, with what the oracle needs."""
    first = next(iter(cells.values()))
    groups = sorted({r["group"] for r in first[0]["regret"] if r["group"] is not None})
    bits = {g: values(measured(first, length, g), "oracle") for g in groups}
    rows = [["oracle's loss", *(spread(bits[g], 1) for g in groups)]]
    for name, runs in cells.items():
        found = [values(measured(runs, length, g), "regret") for g in groups]
        rows.append([f"regret of {name}", *(spread(v, 1) if v else "" for v in found)])
    return markdown([counted, *map(str, groups)], rows)


def draw(found: dict[str, tuple[dict[str, Runs], int]], path: Path) -> None:
    """Regret by bytes of state, a panel for each source."""
    figure, panels = plt.subplots(
        1, len(found), figsize=(5 * len(found) + 1.5, 4), layout="constrained", squeeze=False
    )
    for axes, (source, (cells, length)) in zip(panels.flat, found.items(), strict=True):
        for number, (name, runs) in enumerate(sorted(cells.items())):
            regret = np.asarray(values(measured(runs, length), "regret"))
            mean = regret.mean()
            axes.errorbar(
                memory(runs[0]),
                mean,
                [[mean - regret.min()], [regret.max() - mean]],
                fmt="o",
                color=f"C{number}",
                capsize=3,
                label=name,
            )
        oracle = np.mean([v for r in cells.values() for v in values(measured(r, length), "oracle")])
        label = f"{NEAR:.0%} of the oracle's loss"
        axes.axhline(NEAR * oracle, color="grey", linestyle=":", label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1024:g} KiB")
        axes.set(title=SOURCES[source][0], xlabel="state of one sequence")
        axes.set_ylabel(f"regret over {length:,} symbols (bits)")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(alpha=0.3)
    panels.flat[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def fill(page: Path, parts: dict[str, str]) -> None:
    """Put each part between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` on the page."""
    text = page.read_text()
    for name, part in parts.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
        text = pattern.sub(lambda _: f"{marks[0]}\n\n{part}\n\n{marks[1]}", text)  # noqa: B023
    page.write_text(text)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/solomonoff"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--length", type=int, default=256, help="symbols of the main table")
    args = parser.parse_args(arguments)
    found, parts = {}, {}
    for source, (title, counted) in SOURCES.items():
        runs = record(args.runs / source, args.out / f"universal_{source}.json")
        cells = by_cell({name: run for name, run in runs.items() if "regret" in run})
        if not cells:
            print(f"{title}: no run that bmojo eval RUN regret has measured")
            continue
        found[source] = cells, args.length
        every = (row["length"] for runs in cells.values() for run in runs for row in run["regret"])
        tables = [main_table(cells, args.length), length_table(cells, sorted(set(every)))]
        near = [name for name, r in cells.items() if verdict(measured(r, args.length)) == "yes"]
        says = f"Within {NEAR:.0%} of the oracle's loss: {', '.join(near) or 'none'}"
        tables += [group_table(cells, args.length, counted), says]
        parts[source] = "\n\n".join(tables)
        print(f"{title}, {args.length} symbols, bits a sequence\n\n{parts[source]}\n")
    if not found:
        raise SystemExit(f"no measured runs in {args.runs}; see configs/sweeps/solomonoff_*.gin")
    draw(found, args.out / "universal.png")
    if (args.out / "universal.md").exists():
        fill(args.out / "universal.md", parts)


if __name__ == "__main__":
    main()
