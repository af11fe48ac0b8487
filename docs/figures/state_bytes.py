"""Bytes that a model carries from token to token, against the tokens it has read."""

import matplotlib.pyplot as plt
from look import Look

from bmojo.description import describe
from bmojo.experiment import load

LENGTHS = tuple(2**k for k in range(6, 17))
MODELS = (
    ("transformer", "transformer", "ink", "-"),
    ("bmojo", "bmojo", "eidetic", "-"),
    ("bmojo_f", "bmojo_f (no slots)", "fading", "-"),
    ("mamba", "mamba", "other", "--"),
    ("swa", "swa (window alone)", "window", "-"),
)


def draw(look: Look) -> plt.Figure:
    """One line for each model of the recall experiments."""
    figure, axis = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    for name, label, colour, style in MODELS:
        model = describe(load("experiments/mqar.gin", (), [f"models/{name}.gin"])[0].model)
        sizes = [sum(model.memory(length)) for length in LENGTHS]
        axis.plot(LENGTHS, sizes, style, color=getattr(look, colour), label=label, linewidth=2)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set(xlabel="tokens read", ylabel="bytes of state, one row")
    axis.grid(alpha=0.5)
    axis.legend(fontsize=9.5)
    return figure
