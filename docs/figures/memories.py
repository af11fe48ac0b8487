"""The layer in one picture: which memory holds what, and where a query reads."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from look import Look
from matplotlib.patches import FancyArrowPatch, Rectangle

from bmojo.ops.innovation import innovation, predictor, residual
from bmojo.ops.selection import EMPTY, running_sets

LENGTH, WINDOW, FADING, EIDETIC = 40, 8, 3, 4
SURPRISES = {4: 3.0, 13: 2.2, 19: 3.4, 27: 2.6}


def sequence() -> tuple[np.ndarray, np.ndarray]:
    """Innovation of a toy sequence, and the tokens that the slots hold at the last edge."""
    rng = np.random.default_rng(0)
    u = 0.35 * rng.normal(size=(LENGTH, 4))
    for t, size in SURPRISES.items():
        u[t] += size * rng.choice([-1, 1], 4)
    y = np.zeros_like(u)
    for t in range(LENGTH):
        y[t] = 0.3 * (y[t - 1] if t else 0) + u[t]
    rows = jnp.asarray(y, jnp.float32)[None]
    score, _ = innovation(residual(rows, jnp.zeros((1, 4, 4)), predictor(4)))
    vacant = jnp.full((1, EIDETIC), EMPTY)
    edges, _ = running_sets(score, vacant, WINDOW)
    chunk = (LENGTH - 1) // WINDOW
    held = np.sort(np.asarray(edges.source)[0, chunk - 1] - EIDETIC)
    return np.asarray(score)[0], held


def draw(look: Look) -> plt.Figure:
    """Tokens below, memories above them, one softmax on top."""
    score, held = sequence()
    figure, axis = plt.subplots(figsize=(6.2, 4.3))
    axis.set(xlim=(-0.6, LENGTH + 0.6), ylim=(-3.3, 16.2))
    axis.axis("off")
    first = LENGTH - WINDOW

    def cell(x: float, y: float, colour: str, fill: float = 1.0, size: float = 0.86) -> None:
        axis.add_patch(Rectangle((x, y), size, 1.1, facecolor=colour, alpha=fill, linewidth=0))
        axis.add_patch(Rectangle((x, y), size, 1.1, fill=False, edgecolor=colour, linewidth=0.8))

    # Tokens, and how much each surprised.
    for t in range(LENGTH):
        colour = look.eidetic if t in held else look.window if t >= first else look.ink
        cell(t, 0, colour, 0.75 if t in held or t >= first else 0.12)
        height = 2.6 * score[t] / score.max()
        axis.add_patch(Rectangle((t + 0.1, 1.5), 0.66, height, facecolor=colour, alpha=0.9))
    axis.text(0, -1.5, "tokens; bars: what the state did not foresee", va="center", size=9.5)
    axis.annotate(
        "", (LENGTH, -0.75), (0, -0.75), arrowprops={"arrowstyle": "->", "color": look.ink}
    )
    axis.text(LENGTH, -1.5, "now", ha="right", va="center", size=9.5)
    for edge in range(0, LENGTH + 1, WINDOW):
        axis.plot([edge - 0.07] * 2, [-0.35, 1.4], color=look.ink, linewidth=0.7, alpha=0.6)

    # The fading state: everything, ever fainter.
    shade = np.linspace(0, 1, 200)[None] ** 2
    rgb = plt.matplotlib.colors.to_rgb(look.fading)
    wedge = np.concatenate([np.broadcast_to(rgb, (1, 200, 3)), 0.75 * shade[..., None]], axis=-1)
    axis.imshow(wedge, extent=(0, first, -3.1, -2.2), aspect="auto", zorder=0)
    axis.text(0.2, -2.68, "state: all of it, ever fainter", va="center", size=9.5)
    axis.set(xlim=(-0.6, LENGTH + 0.6), ylim=(-3.3, 16.2))

    # What the query sees.
    top = 9.0
    places = {"eidetic": 4.0, "fading": 18.5, "window": float(first)}
    for i, t in enumerate(held):
        x = places["eidetic"] + 1.15 * i
        cell(x, top, look.eidetic, 0.75)
        bar = 1.6 + 2.6 * score[t] / score.max()
        _arrow(axis, (t + 0.43, bar), (x + 0.43, top - 0.1), look.eidetic)
    for i in range(FADING):
        cell(places["fading"] + 1.15 * i, top, look.fading, 0.35 + 0.2 * i)
    _arrow(axis, (first - 0.4, -2.0), (places["fading"] + 1.7, top - 0.1), look.fading, 0.25)
    for i in range(WINDOW):
        cell(places["window"] + i, top, look.window, 0.75)
    _arrow(axis, (first + 4, 2.2), (first + 4, top - 0.1), look.window)
    for name, text, count in (
        ("eidetic", "eidetic: the\nmost surprising,\nverbatim", EIDETIC),
        ("fading", "fading: states\nat the end of the\nchunk before", FADING),
        ("window", "window:\nthe last tokens,\nverbatim", WINDOW),
    ):
        width = 1.15 * count if name != "window" else count
        axis.text(
            places[name] + width / 2, top + 1.4, text, ha="center", va="bottom", size=9.5,
            color=getattr(look, name),
        )  # fmt: skip
    axis.add_patch(Rectangle((0, 14.0), LENGTH, 1.4, fill=False, edgecolor=look.ink))
    axis.text(LENGTH / 2, 14.65, "one softmax over all three", ha="center", va="center")
    return figure


def _arrow(axis, start, end, colour, bend: float = 0.0) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=colour, linewidth=0.9,
            connectionstyle=f"arc3,rad={bend}", alpha=0.8,
        )
    )  # fmt: skip
