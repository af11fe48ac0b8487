"""Figures of a report: a colour for each cell, a band from the lowest to the highest seed."""

import io
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bmojo.evaluation.collect import Cell, Run, row_of, spread
from bmojo.files import write_atomically

__all__ = ["draw"]

COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#6cc5b0", "#97bbf5", "#9c6b4e",
           "#ff8ab7", "#555555")  # fmt: skip
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
POINTS = 100
"""Of a learning curve; each is a mean over a stretch of the run."""

Series = list[tuple[float, float]]


class _Styles:
    """What each cell looks like, in all figures alike."""

    def __init__(self, cells: Sequence[Cell]):
        self._index = {cell.label: index for index, cell in enumerate(cells)}

    def line(self, cell: Cell, marker: bool = True) -> dict[str, Any]:
        """Arguments of a line."""
        index, size = self._index[cell.label], len(COLOURS)
        style: dict[str, Any] = {
            "color": COLOURS[index % size],
            "linestyle": LINES[index // size % len(LINES)],
            "linewidth": 1.6,
            "label": "\n".join(textwrap.wrap(cell.label, 36, break_on_hyphens=False)),
        }
        if marker:
            style |= {"marker": MARKERS[index // size % len(MARKERS)], "markersize": 4.5}
        return style


def draw(
    cells: Sequence[Cell], out: Path, tasks: Mapping[str, tuple[str, float | None]]
) -> list[Path]:
    """Draw every figure that the runs have numbers for, as PNG.

    Args:
      cells: finished runs, pooled over seeds.
      out: the folder of the figures.
      tasks: by evaluation, what its groups count and the level of chance, as far as known.

    Returns:
      What was drawn: for each evaluation accuracy by group, accuracy by memory, and loss by
      parameters, tokens and seconds; learning curves; loss by context.
    """
    styles = _Styles(cells)
    figures: dict[str, Figure | None] = {}
    evaluations = list(dict.fromkeys(name for cell in cells for name in cell.evaluations()))
    for name in evaluations:
        counted, chance = tasks.get(name, ("group", None))
        figures[f"accuracy_{name}"] = _accuracy(cells, styles, name, counted, chance)
        figures[f"memory_{name}"] = _memory(cells, styles, name, chance)
        figures[f"loss_{name}"] = _loss(cells, styles, name)
    if not evaluations:
        figures["loss"] = _loss(cells, styles, None)
    figures["learning"] = _learning(cells, styles)
    figures["length"] = _length(cells, styles)
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(out / f"{_safe(name)}.png")
            _save(figure, paths[-1])
    return paths


def _accuracy(
    cells: Sequence[Cell], styles: _Styles, evaluation: str, counted: str, chance: float | None
) -> Figure | None:
    """Accuracy by group."""
    groups = sorted({group for cell in cells for group in cell.groups(evaluation)})
    if not groups:
        return None
    figure, (axis,) = _figure(1, cells)
    for cell in cells:
        series = [
            [(float(g), row_of(run, evaluation, g).get("accuracy")) for g in groups]
            for run in cell.runs
        ]
        _band(axis, series, styles.line(cell))
    if groups[0] > 0:
        axis.set_xscale("log", base=2)
    axis.set_xticks(groups, labels=[str(group) for group in groups])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(counted.replace("_", " "))
    _accuracy_axis(axis, chance)
    axis.set_title(f"Accuracy: {evaluation}")
    _legend(figure, axis, cells)
    return figure


def _memory(
    cells: Sequence[Cell], styles: _Styles, evaluation: str, chance: float | None
) -> Figure | None:
    """Accuracy over all groups by bytes of memory."""
    figure, (axis,) = _figure(1, cells)
    if not _points(axis, cells, styles, _memory_bytes, _measured(evaluation, "accuracy")):
        return None
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(_bytes))
    _ticks(axis, base=2)
    axis.set_xlabel("memory of one sequence, state + keys and values (bytes)")
    _accuracy_axis(axis, chance)
    axis.set_title(f"Accuracy by memory: {evaluation}")
    _legend(figure, axis, cells)
    return figure


def _loss(cells: Sequence[Cell], styles: _Styles, evaluation: str | None) -> Figure | None:
    """Loss, or bits per byte, at the end by parameters, and on the way by tokens and seconds.

    Without two evaluations on the way, or without any at all, the loss is that of training.
    """
    name = "loss"
    if evaluation is not None:
        name = _unit(cells, evaluation)
        final = _measured(evaluation, name)
    else:
        final = _training_loss
    figure, axes = _figure(3, cells)
    if not _points(axes[0], cells, styles, lambda run: run.number("parameters"), final):
        return None
    axes[0].set_xlabel("parameters")
    axes[0].set_ylabel(_quantity(name, evaluation))
    counts = {run.number("parameters") for cell in cells for run in cell.runs} - {None}
    if max(counts) > 1.5 * min(counts):  # type: ignore[type-var, operator]
        axes[0].set_xscale("log")
        _ticks(axes[0], base=10)
    else:
        axes[0].margins(x=0.3)
    axes[0].xaxis.set_major_formatter(FuncFormatter(_count))
    axes[0].tick_params(axis="x", rotation=30)
    on_the_way = evaluation is not None and any(
        len({line["step"] for line in run.evaluations if line["evaluation"] == evaluation}) > 1
        for cell in cells
        for run in cell.runs
    )
    for axis, unit in zip(axes[1:], ("tokens", "seconds"), strict=True):
        for cell in cells:
            curves = [_curve(run, evaluation if on_the_way else None, name) for run in cell.runs]
            _band(axis, curves, styles.line(cell, marker=on_the_way), _places(cell.runs, unit))
        axis.set_xlabel(unit)
        axis.xaxis.set_major_formatter(FuncFormatter(_count))
        axis.set_ylabel(_quantity(name, evaluation) if on_the_way else _quantity("loss", None))
    figure.suptitle(
        f"{_quantity(name, evaluation).partition(' (')[0].capitalize()}"
        f"{f': {evaluation}' if evaluation else ''}"
    )
    if on_the_way or evaluation is None:
        low, high = zip(*(axis.get_ylim() for axis in axes), strict=True)
        for axis in axes:
            axis.set_ylim(min(low), max(high))
    _legend(figure, axes[1], cells)
    return figure


def _learning(cells: Sequence[Cell], styles: _Styles) -> Figure | None:
    """Training loss and accuracy by step, with the ends of stages as dashed lines."""
    if not any(run.metrics for cell in cells for run in cell.runs):
        return None
    figure, axes = _figure(2, cells)
    ends = {
        before["step"]
        for cell in cells
        for run in cell.runs
        for before, after in zip(run.metrics, run.metrics[1:], strict=False)
        if before.get("stage") != after.get("stage")
    }
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for cell in cells:
            curves = [_thinned(_values(run.metrics, name)) for run in cell.runs]
            _band(axis, curves, styles.line(cell, marker=False))
        for end in ends if len(ends) <= 4 else ():
            axis.axvline(end, color="grey", linestyle="--", linewidth=0.8)
        axis.set_xlabel("step")
        axis.set_title(f"Training {name}")
    axes[0].set_ylabel(_quantity("loss", None))
    _accuracy_axis(axes[1], None)
    _legend(figure, axes[0], cells)
    return figure


def _length(cells: Sequence[Cell], styles: _Styles) -> Figure | None:
    """Loss, or bits per byte, by length of context and by position."""
    rows = [
        row for cell in cells for run in cell.runs for row in run.perplexity.get("contexts", [])
    ]
    positions = any(run.perplexity.get("positions") for cell in cells for run in cell.runs)
    if not rows and not positions:
        return None
    bits = bool(rows) and all(row.get("bits_per_byte") is not None for row in rows)
    name = "bits_per_byte" if bits else "loss"
    figure, axes = _figure(bool(rows) + positions, cells)
    kinds = ["context"] * bool(rows) + ["position"] * positions
    for axis, kind in zip(axes, kinds, strict=True):
        for cell in cells:
            curves = [
                [(float(row["context"]), row[name]) for row in run.perplexity.get("contexts", [])]
                if kind == "context"
                else [
                    ((row["start"] + row["stop"]) / 2, row["loss"])
                    for row in run.perplexity.get("positions", [])
                ]
                for run in cell.runs
            ]
            _band(axis, curves, styles.line(cell))
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_xlabel("context (tokens)" if kind == "context" else "position in the document")
        axis.set_ylabel(_quantity(name if kind == "context" else "loss", "test"))
        axis.set_title(f"Loss by {kind}")
    _legend(figure, axes[0], cells)
    return figure


# Numbers


def _measured(evaluation: str, name: str) -> Callable[[Run], float | None]:
    return lambda run: row_of(run, evaluation, None).get(name)


def _training_loss(run: Run) -> float | None:
    return (run.summary or {}).get("final", {}).get("loss")


def _memory_bytes(run: Run) -> float | None:
    parts = [run.number("state_bytes"), run.number("key_value_bytes")]
    known = [part for part in parts if part is not None]
    return sum(known) if sum(known) > 0 else None


def _unit(cells: Sequence[Cell], evaluation: str) -> str:
    """'bits_per_byte' if every run has it, or 'loss'."""
    rows = [row_of(run, evaluation, None) for cell in cells for run in cell.runs]
    every = all(row.get("bits_per_byte") is not None for row in rows if row)
    return "bits_per_byte" if every else "loss"


def _quantity(name: str, evaluation: str | None) -> str:
    if name == "bits_per_byte":
        return "bits per byte"
    return f"{'training ' if evaluation is None else ''}loss (nats a target)"


def _curve(run: Run, evaluation: str | None, name: str) -> Series:
    """A number by step: of an evaluation over all groups, or of training."""
    if evaluation is None:
        return _thinned(_values(run.metrics, "loss"))
    return [
        (line["step"], line[name])
        for line in run.evaluations
        if line["evaluation"] == evaluation and line["group"] is None and line.get(name) is not None
    ]


def _values(lines: Sequence[Mapping[str, Any]], name: str) -> Series:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def _thinned(series: Series) -> Series:
    """At most POINTS points, each the mean over a stretch, at its last step."""
    size = math.ceil(len(series) / POINTS)
    parts = [series[first : first + size] for first in range(0, len(series), size or 1)]
    return [(part[-1][0], statistics.fmean(y for _, y in part)) for part in parts]


def _places(runs: Sequence[Run], unit: str) -> Callable[[float], float | None]:
    """From steps to tokens or seconds, as a mean over runs."""
    tables = [
        {line["step"]: line.get(unit) for line in (run.metrics if unit == "tokens" else run.speed)}
        for run in runs
    ]

    def place(step: float) -> float | None:
        values = []
        for table in tables:
            before = [known for known in table if known <= step]
            value = table[max(before)] if before else None
            if value is not None:
                values.append(value)
        return statistics.fmean(values) if values else None

    return place


# Drawing


def _figure(panels: int, cells: Sequence[Cell]) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, and room for the legend on its right."""
    width = (5.6 if panels == 1 else 4.4) * panels + (2.6 if len(cells) > 1 else 0)
    figure = Figure(figsize=(width, max(3.9, 0.75 + 0.21 * len(cells))), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _band(
    axis: Axes,
    curves: Iterable[Sequence[tuple[float, float | None]]],
    style: dict[str, Any],
    place: Callable[[float], float | None] = float,
) -> None:
    """The mean of curves where any has a point, and the range that they span."""
    by_x: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in curve:
            if y is not None:
                by_x.setdefault(x, []).append(y)
    places = {x: place(x) for x in by_x}
    points = sorted((p, by_x[x]) for x, p in places.items() if p is not None)
    if not points:
        return
    along = [p for p, _ in points]
    axis.plot(along, [statistics.fmean(ys) for _, ys in points], **style)
    if any(len(ys) > 1 for _, ys in points):
        low, high = ([f(ys) for _, ys in points] for f in (min, max))
        axis.fill_between(along, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _points(
    axis: Axes,
    cells: Sequence[Cell],
    styles: _Styles,
    across: Callable[[Run], float | None],
    up: Callable[[Run], float | None],
) -> bool:
    """A point for each cell with its range over seeds; false if there is none."""
    drawn = False
    for cell in cells:
        x, y = spread(cell.runs, across), spread(cell.runs, up)
        if x is not None and y is not None:
            drawn = True
            error = [[y.mean - y.low], [y.high - y.mean]]
            style = styles.line(cell) | {"linestyle": "none", "markersize": 6.5}
            axis.errorbar([x.mean], [y.mean], yerr=error, capsize=3, **style)
    return drawn


def _accuracy_axis(axis: Axes, chance: float | None) -> None:
    axis.set_ylabel("accuracy")
    axis.set_ylim(-0.02, 1.02)
    if chance is not None:
        axis.axhline(chance, color="grey", linestyle=":", label=f"chance {chance:.2g}")


def _ticks(axis: Axes, base: int) -> None:
    """Ticks at powers of ``base`` around the points, so that there are always some to read."""
    low, high = axis.get_xlim()
    if base == 10:
        places = [m * 10.0**e for e in range(0, 13) for m in (1, 2, 5)]
    else:
        places = [float(base) ** e for e in range(0, 60)]
    inside = [place for place in places if low <= place <= high]
    axis.set_xticks(inside[:: math.ceil(len(inside) / 8) or 1])
    axis.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axis: Axes, cells: Sequence[Cell]) -> None:
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index].startswith("chance "))
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    if len(cells) > 1:
        figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    elif handles:
        axis.legend(fontsize=8, frameon=False)


def _count(value: float, position: int | None = None) -> str:
    """12345 as 12.3k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"


def _bytes(value: float, position: int | None = None) -> str:
    """65536 as 64 KiB."""
    for size, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in name)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())
