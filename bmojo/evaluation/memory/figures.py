"""The memory report as figures: innovation, slots, tiers, ages."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from bmojo.evaluation.memory.trace import Layer, Memory
from bmojo.ops.masks import EIDETIC, TIERS

COLOURS = ("#4269d0", "#3ca951", "#e15759")
"""Of window, fading and eidetic, in figures and page alike."""

HEAT = LinearSegmentedColormap.from_list("heat", ["#fbeee6", "#f2b8a0", "#e15759", "#8e1b2e"])

POINTS = 1200  # along a text; where it is longer, each point stands for a stretch of it

Figures = dict[str, tuple[Figure, str]]


def draw(memory: Memory) -> Figures:
    """Every figure that there are data for, with a description in words."""
    slots = [layer for layer in memory.layers if layer.chunk]
    figures: Figures = {}
    if slots:
        figures["innovation"] = _innovation(slots)
        figures["slots"] = _slots(slots, len(memory.tokens))
    return {**figures, "tiers": _tiers(memory.layers), "ages": _ages(memory.layers)}


def _rows(heights: Sequence[float], margin: float = 0.8) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each layer, below one another."""
    figure = Figure(figsize=(10, margin + sum(heights)), layout="constrained")
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _innovation(layers: Sequence[Layer]) -> tuple[Figure, str]:
    """Innovation along the text; dots are the tokens that the slots hold at its end."""
    figure, axes = _rows([1.7] * len(layers))
    for axis, layer in zip(axes, layers, strict=True):
        values = layer.innovation
        stretch = -(-len(values) // POINTS)
        starts = np.arange(0, len(values), stretch)
        highest = np.maximum.reduceat(values, starts)
        middle = [float(np.median(values[s : s + stretch])) for s in starts.tolist()]
        label = "token" if stretch == 1 else f"highest of {stretch} tokens"
        axis.fill_between(starts, middle, highest, color="#c9cfdd", linewidth=0, step="post")
        axis.step(starts, highest, where="post", color="#5b6478", linewidth=0.7, label=label)
        if stretch > 1:
            axis.step(starts, middle, where="post", color="#9aa2b5", linewidth=0.7,
                      label="their median")  # fmt: skip
        axis.plot(layer.kept, values[layer.kept], "o", markersize=3.5, color=COLOURS[EIDETIC],
                  label="kept to the end")  # fmt: skip
        if (values > 0).any():
            axis.set_yscale("log")
            axis.set_ylim(np.quantile(values[values > 0], 0.01) / 1.5, values.max() * 1.6)
        axis.set_title(layer.name, loc="left", fontsize="medium")
        axis.set_ylabel("innovation")
        axis.margins(x=0.01)
    axes[0].legend(fontsize="small", ncols=3, loc="lower right", frameon=False,
                   bbox_to_anchor=(1, 1))  # fmt: skip
    axes[-1].set_xlabel("position in the text (tokens)")
    return figure, "Innovation of every token along the text, one panel a layer."


def lanes(layer: Layer) -> list[tuple[int, int, int, int]]:
    """Lane (of as many as there are slots), position, first edge and end of each tenancy.

    The end of those that stay is the number of tokens.
    """
    laid: list[tuple[int, int, int, int]] = []
    ends: list[int] = []
    for stay in sorted(layer.tenancies(), key=lambda t: (t.entered, t.position)):
        end = len(layer.innovation) if stay.left is None else stay.left
        lane = next((n for n, until in enumerate(ends) if until <= stay.entered), len(ends))
        ends[lane : lane + 1] = [end]
        laid.append((lane, stay.position, stay.entered, end))
    return laid


def _slots(layers: Sequence[Layer], count: int) -> tuple[Figure, str]:
    """Occupancy of the slots along the text; the colour is the token's innovation."""
    sizes = [layer.held.shape[1] for layer in layers]
    heights = [min(4.0, max(1.4, 0.075 * size)) for size in sizes]
    figure, axes = _rows(heights, 0.9 + 0.4 * len(sizes))
    for axis, layer, size in zip(axes, layers, sizes, strict=True):
        laid = lanes(layer)
        scores = np.asarray([layer.innovation[position] for _, position, _, _ in laid])
        bars = [
            [(low, lane), (high, lane), (high, lane + 0.84), (low, lane + 0.84)]
            for lane, _, low, high in laid
        ]
        positive = scores[scores > 0]
        low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
        norm = LogNorm(low, high if high > low else 2 * low)
        boxes = PolyCollection(bars, cmap=HEAT, norm=norm, edgecolors="white", linewidths=0.4)
        boxes.set_array(np.maximum(scores, low))
        axis.add_collection(boxes)
        axis.set_xlim(0, count)
        axis.set_ylim(size, 0)
        axis.set_ylabel("slot")
        axis.set_title(layer.name, loc="left", fontsize="medium")
        bar = figure.colorbar(ScalarMappable(norm, HEAT), ax=axis, pad=0.01, aspect=12)
        bar.set_label("innovation", fontsize="small")
        ends = np.geomspace(norm.vmin or low, norm.vmax or high, 3)
        bar.set_ticks(ends.tolist(), labels=[f"{end:.2g}" for end in ends], fontsize="small")
        bar.ax.minorticks_off()
    axes[-1].set_xlabel("position in the text (tokens); slots are refreshed at chunk edges")
    return figure, (
        "Occupancy of the eidetic slots along the text: a bar for each token that was held, "
        "from the chunk edge at which it entered to the one at which it left."
    )


def _tiers(layers: Sequence[Layer]) -> tuple[Figure, str]:
    """Attention by tier, a bar for each head."""
    heads = [layer.spread.shape[0] for layer in layers]
    rows = sum(heads) + 0.6 * len(heads)
    figure = Figure(figsize=(9, 1.2 + 0.26 * rows), layout="constrained")
    axis = figure.subplots()
    place, ticks, names = 0.0, [], []
    used = sorted({tier for layer in layers for tier in layer.tiers})
    for layer in layers:
        for head, shares in enumerate(layer.spread.sum(axis=2)):
            left = 0.0
            for tier in layer.tiers:
                share = float(shares[tier])
                axis.barh(place, share, left=left, height=0.86, color=COLOURS[tier])
                if share > 0.05:
                    axis.text(left + share / 2, place, f"{share:.2f}", color="white",
                              ha="center", va="center", fontsize="small")  # fmt: skip
                left += share
            ticks.append(place)
            names.append(f"{layer.name}, head {head + 1}")
            place += 1
        place += 0.6
    axis.set_yticks(ticks, labels=names, fontsize="small")
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.margins(y=0.01)
    axis.set_xlabel("share of attention, mean over the text")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    for tier in used:
        axis.barh(0, 0, color=COLOURS[tier], label=TIERS[tier])
    figure.legend(loc="outside upper right", ncols=3, fontsize="small", frameon=False)
    return figure, "Share of attention that goes to each tier of memory, by layer and head."


def _ages(layers: Sequence[Layer]) -> tuple[Figure, str]:
    """Distance of attention, by tier; heads are averaged."""
    figure, axes = _rows([1.5] * len(layers))
    bins = layers[0].spread.shape[2]
    # Octave n > 0 spans 2^(n-1) .. 2^n - 1; the query's own token stands to the left of 1.
    edges = np.concatenate([[0.5], 2.0 ** np.arange(bins)])
    for axis, layer in zip(axes, layers, strict=True):
        base = np.zeros(bins)
        shares = layer.spread.mean(axis=0)
        for tier in layer.tiers:
            axis.stairs(base + shares[tier], edges, baseline=base, fill=True,
                        color=COLOURS[tier], label=TIERS[tier], linewidth=0)  # fmt: skip
            base = base + shares[tier]
        axis.stairs(base, edges, color="#333333", linewidth=0.6)
        axis.set_xscale("log", base=2)
        axis.set_title(layer.name, loc="left", fontsize="medium")
        axis.set_ylabel("share")
        axis.set_xlim(0.5, edges[-1])
    powers = [2**n for n in range(0, bins, 1 + (bins > 12))]
    axes[-1].set_xticks([0.5, *powers], labels=["0", *map("{:,}".format, powers)], fontsize="small")
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("tokens from the key to the query")
    widest = max(zip(layers, axes, strict=True), key=lambda pair: len(pair[0].tiers))[1]
    shown = widest.get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper right", ncols=3, fontsize="small", frameon=False)
    return figure, "Distance from key to query, weighted by attention, in octaves, by tier."
