"""Figures of a report: a colour for each cell, a band from the lowest to the highest seed."""

import io
import math
import operator
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bmojo.evaluation.collect import Cell, Run, evaluations_of, spread
from bmojo.files import write_atomically

COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#6cc5b0", "#97bbf5", "#9c6b4e",
           "#ff8ab7", "#555555")  # fmt: skip
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
POINTS = 100  # of a learning curve; each is a mean over a stretch of the run

Series = list[tuple[float, float]]
Number = Callable[[Run], float | None]


def draw(
    cells: Sequence[Cell], out: Path, tasks: Mapping[str, tuple[str, float | None]]
) -> list[Path]:
    """Draw every figure that the runs have numbers for, as PNG; ``tasks`` as in the report.

    Returns:
      Paths of the figures: for each evaluation accuracy by group, accuracy by memory, and loss by
      parameters, tokens and seconds; learning curves; loss by context.
    """
    drawing = _Drawing(cells)
    figures: dict[str, Figure | None] = {}
    for name in evaluations_of(cells):
        counted, chance = tasks.get(name, ("group", None))
        figures[f"accuracy_{name}"] = drawing.accuracy(name, counted, chance)
        figures[f"memory_{name}"] = drawing.memory(name, chance)
        figures[f"loss_{name}"] = drawing.loss(name)
    if not figures:
        figures["loss"] = drawing.loss(None)
    figures["learning"] = drawing.learning()
    figures["length"] = drawing.length()
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            safe = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in name)
            paths.append(out / f"{safe}.png")
            _save(figure, paths[-1])
    return paths


class _Drawing:
    """The figures of some cells, each cell in one style in all of them."""

    def __init__(self, cells: Sequence[Cell]):
        self.cells = cells
        self.runs = [run for cell in cells for run in cell.runs]

    def accuracy(self, evaluation: str, counted: str, chance: float | None) -> Figure | None:
        """Accuracy by group."""
        groups = sorted({group for cell in self.cells for group in cell.groups(evaluation)})
        if not groups:
            return None
        figure, (axis,) = self._panels(1)
        for cell, style in self._styled():
            accuracy = lambda run: [(g, run.measured(evaluation, g, "accuracy")) for g in groups]  # noqa: E731
            _band(axis, map(accuracy, cell.runs), style)
        if groups[0] > 0:
            axis.set_xscale("log", base=2)
        axis.set_xticks(groups, labels=[str(group) for group in groups])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set(xlabel=counted.replace("_", " "), title=f"Accuracy: {evaluation}")
        _accuracy_axis(axis, chance)
        return self._with_legend(figure, axis)

    def memory(self, evaluation: str, chance: float | None) -> Figure | None:
        """Accuracy over all groups by bytes of memory."""
        figure, (axis,) = self._panels(1)
        if not self._points(axis, _memory_bytes, _measured(evaluation, "accuracy")):
            return None
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(_in_units(BYTES))
        _ticks(axis, [2.0**e for e in range(60)])
        axis.set_xlabel("memory of one sequence, state + keys and values (bytes)")
        axis.set_title(f"Accuracy by memory: {evaluation}")
        _accuracy_axis(axis, chance)
        return self._with_legend(figure, axis)

    def loss(self, evaluation: str | None) -> Figure | None:
        """Loss, or bits per byte, at the end by parameters, and on the way by tokens and seconds.

        Without two evaluations on the way, or without any at all, the loss is that of training.
        """
        name = "loss"
        final: Number = Run.training_loss
        if evaluation is not None:
            ends = [run.measured(evaluation, None, "bits_per_byte") for run in self.runs]
            name = "loss" if None in ends else "bits_per_byte"
            final = _measured(evaluation, name)
        figure, axes = self._panels(3)
        parameters: Number = operator.methodcaller("number", "parameters")
        if not self._points(axes[0], parameters, final):
            return None
        axes[0].set(xlabel="parameters", ylabel=_quantity(name, evaluation))
        counts = [count for count in map(parameters, self.runs) if count is not None]
        if max(counts) > 1.5 * min(counts):
            axes[0].set_xscale("log")
            _ticks(axes[0], [m * 10.0**e for e in range(13) for m in (1, 2, 5)])
        else:
            axes[0].margins(x=0.3)
        axes[0].tick_params(axis="x", rotation=30)
        on_the_way = any(
            len({line["step"] for line in run.evaluations if line["evaluation"] == evaluation}) > 1
            for run in self.runs
        )
        measured = evaluation if on_the_way else None
        for axis, unit in zip(axes[1:], ("tokens", "seconds"), strict=True):
            for cell, style in self._styled(marker=on_the_way):
                curves = [_curve(run, measured, name) for run in cell.runs]
                _band(axis, curves, style, _places(cell.runs, unit))
            axis.set(xlabel=unit, ylabel=_quantity(name if on_the_way else "loss", measured))
        for axis in axes:
            axis.xaxis.set_major_formatter(_in_units(COUNTS))
        title = _quantity(name, evaluation).partition(" (")[0].capitalize()
        figure.suptitle(f"{title}: {evaluation}" if evaluation else title)
        if on_the_way or evaluation is None:
            low, high = zip(*(axis.get_ylim() for axis in axes), strict=True)
            for axis in axes:
                axis.set_ylim(min(low), max(high))
        return self._with_legend(figure, axes[1])

    def learning(self) -> Figure | None:
        """Training loss and accuracy by step, with the ends of stages as dashed lines."""
        if not any(run.metrics for run in self.runs):
            return None
        figure, axes = self._panels(2)
        ends = {
            before["step"]
            for run in self.runs
            for before, after in zip(run.metrics, run.metrics[1:], strict=False)
            if before.get("stage") != after.get("stage")
        }
        for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
            for cell, style in self._styled(marker=False):
                _band(axis, [_thinned(_values(run.metrics, name)) for run in cell.runs], style)
            for end in ends if len(ends) <= 4 else ():
                axis.axvline(end, color="grey", linestyle="--", linewidth=0.8)
            axis.set(xlabel="step", title=f"Training {name}")
        axes[0].set_ylabel(_quantity("loss", None))
        _accuracy_axis(axes[1], None)
        return self._with_legend(figure, axes[0])

    def length(self) -> Figure | None:
        """Loss, or bits per byte, by length of context and by position."""
        contexts = [row for run in self.runs for row in run.perplexity.get("contexts", [])]
        bits = all(row.get("bits_per_byte") is not None for row in contexts)
        name = "bits_per_byte" if bits else "loss"
        point = lambda row: (float(row["context"]), row[name])  # noqa: E731
        middle = lambda row: ((row["start"] + row["stop"]) / 2, row["loss"])  # noqa: E731
        kinds = [
            ("contexts", "context (tokens)", name, point),
            ("positions", "position in the document (tokens)", "loss", middle),
        ]
        kinds = [kind for kind in kinds if any(run.perplexity.get(kind[0]) for run in self.runs)]
        if not kinds:
            return None
        figure, axes = self._panels(len(kinds))
        for axis, (kind, label, quantity, read) in zip(axes, kinds, strict=True):
            for cell, style in self._styled():
                rows = [run.perplexity.get(kind, []) for run in cell.runs]
                _band(axis, [map(read, some) for some in rows], style)
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axis.set(xlabel=label, ylabel=_quantity(quantity, "test"), title=f"Loss by {kind[:-1]}")
        return self._with_legend(figure, axes[0])

    def _styled(self, marker: bool = True) -> Iterable[tuple[Cell, dict[str, Any]]]:
        """Cells with the arguments of their lines."""
        for index, cell in enumerate(self.cells):
            turn, colour = divmod(index, len(COLOURS))
            label = "\n".join(textwrap.wrap(cell.label, 36, break_on_hyphens=False))
            style: dict[str, Any] = {"color": COLOURS[colour], "linewidth": 1.6, "label": label}
            style["linestyle"] = LINES[turn % len(LINES)]
            if marker:
                style |= {"marker": MARKERS[turn % len(MARKERS)], "markersize": 4.5}
            yield cell, style

    def _panels(self, count: int) -> tuple[Figure, list[Axes]]:
        """A figure with panels side by side, and room for the legend on its right."""
        width = (5.6 if count == 1 else 4.4) * count + (2.6 if len(self.cells) > 1 else 0)
        height = max(3.9, 0.75 + 0.21 * len(self.cells))
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        for axis in axes:
            axis.grid(alpha=0.25, linewidth=0.7)
            axis.spines[["top", "right"]].set_visible(False)
        return figure, list(axes)

    def _points(self, axis: Axes, across: Number, up: Number) -> bool:
        """A point for each cell with its range over seeds; false if there is none."""
        drawn = False
        for cell, style in self._styled():
            x, y = spread(cell.runs, across), spread(cell.runs, up)
            if x is not None and y is not None:
                drawn = True
                error = [[y.mean - y.low], [y.high - y.mean]]
                style |= {"linestyle": "none", "markersize": 6.5}
                axis.errorbar([x.mean], [y.mean], yerr=error, capsize=3, **style)
        return drawn

    def _with_legend(self, figure: Figure, axis: Axes) -> Figure:
        handles, labels = axis.get_legend_handles_labels()
        found = zip(handles, labels, strict=True)
        pairs = sorted(found, key=lambda pair: pair[1].startswith("chance "))
        handles, labels = [handle for handle, _ in pairs], [label for _, label in pairs]
        if len(self.cells) > 1:
            figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
        elif handles:
            axis.legend(fontsize=8, frameon=False)
        return figure


# Numbers


def _measured(evaluation: str, name: str) -> Number:
    return lambda run: run.measured(evaluation, None, name)


def _memory_bytes(run: Run) -> float | None:
    return (run.number("state_bytes") or 0) + (run.number("key_value_bytes") or 0) or None


def _quantity(name: str, evaluation: str | None) -> str:
    if name == "bits_per_byte":
        return "bits per byte"
    return f"{'training ' if evaluation is None else ''}loss (nats a target)"


def _curve(run: Run, evaluation: str | None, name: str) -> Series:
    """A number by step: of an evaluation over all groups, or of training."""
    if evaluation is None:
        return _thinned(_values(run.metrics, "loss"))
    lines = [line for line in run.evaluations if line["evaluation"] == evaluation]
    return _values([line for line in lines if line["group"] is None], name)


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
        last = [max((known for known in table if known <= step), default=None) for table in tables]
        values = [table.get(known) for table, known in zip(tables, last, strict=True)]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return place


# Axes


def _band(
    axis: Axes,
    curves: Iterable[Iterable[tuple[float, float | None]]],
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


def _accuracy_axis(axis: Axes, chance: float | None) -> None:
    axis.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    if chance is not None:
        axis.axhline(chance, color="grey", linestyle=":", label=f"chance {chance:.2g}")


def _ticks(axis: Axes, places: Sequence[float]) -> None:
    """Ticks at those of the places that lie around the points, at most 8."""
    low, high = axis.get_xlim()
    inside = [place for place in places if low <= place <= high]
    axis.set_xticks(inside[:: math.ceil(len(inside) / 8) or 1])
    axis.xaxis.set_minor_locator(NullLocator())


COUNTS = {"B": 1e9, "M": 1e6, "k": 1e3}
BYTES = {" GiB": 2.0**30, " MiB": 2.0**20, " KiB": 2.0**10}


def _in_units(units: Mapping[str, float]) -> FuncFormatter:
    """Labels of ticks with the largest unit below them: 12345 as 12.35k, 65536 as 64 KiB."""

    def label(value: float, position: int | None = None) -> str:
        found = next((u for u, size in units.items() if abs(value) >= size), "")
        return f"{value / units.get(found, 1.0):.4g}{found}"

    return FuncFormatter(label)


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, png(figure, 130))


def png(figure: Figure, dpi: int = 120) -> bytes:
    """A figure as PNG, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
