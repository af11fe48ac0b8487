"""Where the time of a B'MOJO layer goes, beside what this machine can do.

    python -m scripts.performance.parts [--length 2048] [--width 256] [--out DIR]

Times the parts of one layer, forward and with gradients, with the cell of Mamba and with that of
Mamba-2; the whole layer; and what stands beside the layers. All take turns with matrix products
and copies, by whose rates each part is judged. Prints tables and writes parts.json, parts.md,
parts.png (time by part) and roofline.png to the folder.

Operations are counted by formula, those of a gradient as twice those forward; bytes are those of
arguments and results. What a step reads twice, keeps between, or computes again is in neither.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from rich.console import Console

from bmojo.benchmark import calibration, machine
from bmojo.benchmark.models import Dimensions, choose
from bmojo.benchmark.operations import FORWARD, GRADIENT
from bmojo.benchmark.results import Results, Row, measure, write_folder
from bmojo.benchmark.tables import Sheet, markdown, sheets, terminal
from bmojo.cli.common import told
from bmojo.files import write_atomically
from scripts.performance.layer import PARTS
from scripts.performance.programs import BESIDE, WHOLE_LAYER, beside, parts_of

MODELS = {"mamba": "bmojo", "mamba2": "bmojo_ssd"}
TITLES = {"mamba": "B'MOJO, Mamba's cell", "mamba2": "B'MOJO, Mamba-2's cell"}
MARKERS = ("o", "s", "D")
AT_GEMM, AT_COPY, SLOWER = "ms at GEMM's rate", "ms at the copy's rate", "time / longer of both"
INTENSITY = "FLOPs / byte"
BRIEF = ("case", "what", "ms", "of GEMM", "% of the parts", AT_GEMM, AT_COPY, SLOWER, "rate", "in")
"""Columns on the terminal."""


def measured(arguments: argparse.Namespace, command: str, console: Console) -> Results:
    """Compile, check and time everything; ``command`` is for the record."""
    dimensions = Dimensions(
        width=arguments.width,
        layers=1,
        heads=arguments.heads,
        vocabulary=arguments.vocabulary,
        window=arguments.window,
        num_fading=arguments.fading,
        num_eidetic=arguments.eidetic,
    )
    facts = {**machine.record(), "command": command}
    for warning in (machine.busy(facts["load_at_start"]), machine.cached(facts)):
        if warning:
            console.print(f"warning: {warning}", style="bold yellow", markup=False)
    cases, checks = [], []
    chosen = choose([MODELS[cell] for cell in arguments.cells], dimensions)
    for cell, model in zip(arguments.cells, chosen, strict=True):
        console.print(f"compiling {TITLES[cell]}", style="dim")
        some, ours = parts_of(model, TITLES[cell], arguments.batch, arguments.length)
        cases += some
        checks += ours
    cases += beside(chosen[0], arguments.batch, arguments.length)
    cases += calibration.calibration(arguments.length, arguments.width)
    checks += calibration.checks()
    console.print(f"timing {len(cases)} cases in {arguments.rounds} rounds", style="dim")
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    return judged(measure("parts", settings, facts, checks, cases, arguments.rounds))


def judged(results: Results) -> Results:
    """With the time of each part at the machine's own rates, and sums."""
    rate = copy_rate(results)
    rows, notes = [], []
    for group, members in results.groups().items():
        if group == calibration.GROUP:
            rows += members
            continue
        parts = [row for row in members if row.case != WHOLE_LAYER]
        total = sum(row.seconds.median for row in parts)
        rows += [_judge(row, total, rate) for row in members]
        for whole in members:
            if whole.case == WHOLE_LAYER:
                notes.append(
                    f"{group}: the parts add up to {total * 1e3:.1f} ms, the whole layer takes "
                    f"{whole.seconds.median * 1e3:.1f} ms"
                )
    return dataclasses.replace(results, rows=tuple(rows), notes=(*results.notes, *notes))


def _judge(row: Row, total: float, rate: float) -> Row:
    moved, seconds = row.facts["bytes"], row.seconds.median
    copied = moved / rate
    at_gemm = None if row.gemm_fraction is None else seconds * row.gemm_fraction.median
    facts: dict[str, Any] = {
        "% of the parts": None if row.case == WHOLE_LAYER else 100 * seconds / total,
        AT_GEMM: None if at_gemm is None else at_gemm * 1e3,
        AT_COPY: copied * 1e3,
        SLOWER: seconds / max(at_gemm or 0.0, copied),
        "MiB moved": moved / 2**20,
        INTENSITY: None if row.flops is None else row.flops / moved,
    }
    return dataclasses.replace(row, facts=facts)


def copy_rate(results: Results) -> float:
    """Bytes a second that a copy reads and writes."""
    row = next(row for row in results.rows if row.case.startswith("copy"))
    return row.facts["work"] / row.seconds.median


def gemm_rate(results: Results) -> float:
    """Operations a second of the fastest matrix product."""
    row = next(row for row in results.rows if row.case == results.gemm)
    assert row.gflops is not None
    return row.gflops.median * 1e9


def page(results: Results) -> str:
    """The measurement in Markdown."""
    text = markdown(results).replace("# bmojo bench parts", "# Parts of a layer", 1)
    paragraphs = [part.replace("\n", " ") for part in (__doc__ or "").strip().split("\n\n")]
    return text.replace("\n\n", f"\n\n{paragraphs[-1]}\n\n", 1)


def brief(sheet: Sheet) -> Sheet:
    """The columns that a terminal has room for."""
    kept = [index for index, name in enumerate(sheet.head) if name in BRIEF]
    return Sheet(
        sheet.title,
        tuple(sheet.head[index] for index in kept),
        tuple(tuple(line[index] for index in kept) for line in sheet.lines),
    )


def draw_parts(results: Results, path: Path) -> None:
    """Time by part: forward and gradient as bars, and what it would be at the GEMM's rate."""
    groups = results.groups()
    titles = [t for t in (*TITLES.values(), BESIDE) if f"{t}, {GRADIENT}" in groups]
    sizes = [len(groups[f"{title}, {GRADIENT}"]) + 1 for title in titles]
    figure, axes = plt.subplots(
        len(titles),
        figsize=(9, 0.33 * sum(sizes) + 1.2),
        height_ratios=sizes,
        layout="constrained",
        squeeze=False,
    )
    for axis, title in zip(axes[:, 0], titles, strict=True):
        both = {row.case: row for row in groups[f"{title}, {GRADIENT}"]}
        ahead = {row.case: row for row in groups.get(f"{title}, {FORWARD}", [])}
        places = range(len(both))
        total = [row.seconds.median * 1e3 for row in both.values()]
        first = [ahead[name].seconds.median * 1e3 if name in ahead else 0.0 for name in both]
        rest = [max(0.0, all_ - part) for all_, part in zip(total, first, strict=True)]
        axis.barh(places, first, color="#33658a", label="forward")
        axis.barh(places, rest, left=first, color="#86bbd8", label="gradient")
        ideal = [row.facts[AT_GEMM] for row in both.values()]
        known = [(value, place) for value, place in zip(ideal, places, strict=True) if value]
        axis.plot(*zip(*known, strict=True), "|", color="#c1121f", markersize=13, markeredgewidth=2)
        for place, value in zip(places, total, strict=True):
            axis.annotate(
                f"{value:.1f}" if value >= 1 else f"{value:.2f}",
                (max(value, first[place], ideal[place] or 0.0), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axis.set_yticks(places, list(both), fontsize=9)
        axis.invert_yaxis()
        axis.margins(x=0.08)
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("ms")
    handles = [
        *axes[0, 0].get_legend_handles_labels()[0],
        Line2D([], [], color="#c1121f", marker="|", markersize=12, markeredgewidth=2, ls=""),
    ]
    labels = ["forward", "gradient", "both at the rate of a matrix product"]
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_roofline(results: Results, path: Path) -> None:
    """Parts by operations a byte and operations a second, under the measured roofs."""
    gemm, copy = gemm_rate(results), copy_rate(results)
    figure, axis = plt.subplots(figsize=(10, 5.6), layout="constrained")
    colors = dict(zip((*PARTS, WHOLE_LAYER), map(plt.get_cmap("tab10"), range(10)), strict=True))
    seen: dict[str, Any] = {}
    points: list[tuple[float, float]] = []
    titles = [*TITLES.values(), BESIDE]
    for group, members in results.groups().items():
        if group == calibration.GROUP:
            continue
        title, _, kind = group.rpartition(", ")
        marker = MARKERS[titles.index(title)]
        for row in members:
            intensity = row.facts[INTENSITY]
            if intensity is None or row.gflops is None:
                continue
            color = colors.get(row.case, "black")
            points.append((intensity, row.gflops.median))
            face = color if kind == GRADIENT else "none"
            axis.plot(*points[-1], marker, color=color, markerfacecolor=face, markersize=8)
            if row.case not in colors:
                if kind == GRADIENT:
                    axis.annotate(
                        row.case, points[-1], (9, -3), textcoords="offset points", fontsize=7
                    )
            else:
                seen[row.case] = Line2D([], [], color=color, marker="o", ls="")
    low = min(x for x, _ in points) / 2
    high = max(max(x for x, _ in points) * 2, gemm / copy * 4)
    axis.plot([low, gemm / copy, high], [low * copy / 1e9, gemm / 1e9, gemm / 1e9], color="gray")
    axis.annotate(
        f"matrix product, {gemm / 1e9:.0f} GFLOP/s",
        (high, gemm / 1e9),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    axis.annotate(
        f"copy, {copy / 1e9:.1f} GB/s",
        (low, low * copy / 1e9),
        xytext=(8, -12),
        textcoords="offset points",
        fontsize=9,
    )
    axis.set(xscale="log", yscale="log", xlim=(low, high))
    axis.set_xlabel("operations for each byte of arguments and results")
    axis.set_ylabel("GFLOP/s")
    axis.grid(which="major", alpha=0.25)
    shapes = {
        title: Line2D([], [], color="black", marker=marker, ls="", markerfacecolor="none")
        for title, marker in zip(titles, MARKERS, strict=True)
    }
    kinds = {
        FORWARD: Line2D([], [], color="gray", marker="o", ls="", markerfacecolor="none"),
        GRADIENT: Line2D([], [], color="gray", marker="o", ls=""),
    }
    entries = {name: seen[name] for name in colors if name in seen} | shapes | kinds
    figure.legend(
        entries.values(), entries.keys(), loc="outside right center", fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = {"batch": 1, "length": 2048, "width": 256, "heads": 4, "window": 512, "fading": 16}
    sizes |= {"eidetic": 64, "vocabulary": 256, "rounds": 15}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--cells", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for tables and figures")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = sys.argv[1:] if words is None else list(words)
    arguments = parsed(given)
    command = shlex.join(["python", "-m", "scripts.performance.parts", *given])
    console = Console(highlight=False, width=140)
    if arguments.out is not None:
        write_folder(arguments.out)
    results = measured(arguments, command, console)
    for sheet in sheets(results):
        console.print(terminal(brief(sheet)))
    for note in results.notes:
        console.print(note, markup=False)
    if arguments.out is not None:
        write_atomically(arguments.out / "parts.json", results.as_json())
        write_atomically(arguments.out / "parts.md", page(results))
        draw_parts(results, arguments.out / "parts.png")
        draw_roofline(results, arguments.out / "roofline.png")


if __name__ == "__main__":
    with told():
        main()
