"""Poles and impulse responses of three realizations."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from look import Look

from bmojo.realization import StateSpace, companion, diagonal, from_poles, impulse_response

TOKENS = 41
ORDER = 8


def systems() -> list[tuple[str, str, StateSpace]]:
    """A window, a sum of fading states, and an oscillation."""
    register = companion(jnp.zeros(ORDER), jnp.ones(ORDER) / ORDER)
    fading = diagonal(jnp.asarray([0.95, 0.7]), jnp.ones(2), jnp.asarray([0.1, 0.3]))
    pair = 0.95 * jnp.exp(1j * jnp.asarray([0.5, -0.5]))
    assert isinstance(register, StateSpace)
    return [
        ("nilpotent: exact, then nothing", "window", register),
        ("real diagonal: fades, never ends", "fading", fading),
        ("companion, complex pair: can oscillate", "other", from_poles(pair)),
    ]


def draw(look: Look) -> plt.Figure:
    """A row for each system: its poles, and its response."""
    figure, axes = plt.subplots(
        3, 2, figsize=(6.2, 5.6), layout="constrained", width_ratios=(1, 2.2)
    )
    angle = np.linspace(0, 2 * np.pi, 200)
    for (left, right), (title, name, system) in zip(axes, systems(), strict=True):
        colour = getattr(look, name)
        poles = np.linalg.eigvals(np.asarray(system.A, np.float64))
        left.plot(np.cos(angle), np.sin(angle), color=look.faint)
        left.plot(poles.real, poles.imag, "x", color=colour, markersize=8, markeredgewidth=2)
        left.set(aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        response = np.asarray(impulse_response(system, TOKENS))[:, 0, 0]
        right.axhline(0, color=look.faint, linewidth=1)
        right.vlines(range(TOKENS), 0, response, color=colour)
        right.plot(response, "o", markersize=3, color=colour)
        right.set_title(title, loc="left")
    axes[0, 0].set_title("poles")
    axes[-1, 1].set_xlabel("tokens after the input")
    return figure
