"""Innovation along a sequence, and which tokens the slots hold while it is read."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from look import Look

import bmojo
from bmojo.layers.protocol import AuxRequest

LENGTH, SIZE, SLOTS, WIDTH = 96, 16, 6, 32
RARE = (9, 21, 22, 40, 41, 58, 77, 90)


def read() -> tuple[np.ndarray, np.ndarray]:
    """Innovation (L,), and by chunk the positions in the slots (C, M)."""
    rng = np.random.default_rng(3)
    words = rng.normal(size=(12, WIDTH))
    ids = np.zeros(LENGTH, int)
    ids[list(RARE)] = rng.integers(1, len(words), len(RARE))
    u = jnp.asarray(words[ids] + 0.1 * rng.normal(size=(LENGTH, WIDTH)), jnp.float32)[None]
    layer = bmojo.BMojo(WIDTH, window=SIZE, num_fading=2, num_eidetic=SLOTS, n_heads=1)
    _, _, aux = jax.jit(lambda u: layer(u, aux=AuxRequest(bins=1)))(u)
    return np.asarray(aux.innovation)[0], np.asarray(aux.held)[0, ::SIZE]


def draw(look: Look) -> plt.Figure:
    """Innovation above; below it a line for each token from its place to where it is kept."""
    score, held = read()
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.2, 5.0), layout="constrained", sharex=True, height_ratios=(1, 1.3)
    )
    ever = sorted(set(held[held >= 0].tolist()))
    colours = [look.eidetic if t in RARE else look.ink for t in range(LENGTH)]
    above.vlines(range(LENGTH), 0, score, color=colours, linewidth=2.2)
    above.set_ylabel("innovation")
    above.plot([], [], color=look.eidetic, label="a rare token")
    above.plot([], [], color=look.ink, label="the usual token, with noise")
    above.legend(loc="upper right", fontsize=9.5)
    for row, token in enumerate(ever):
        chunks = [c for c in range(len(held)) if token in held[c]]
        colour = look.eidetic if token in RARE else look.ink
        below.plot([token, chunks[0] * SIZE], [row, row], ":", color=colour, linewidth=1)
        below.plot(token, row, "o", color=colour, markersize=5)
        begin, end = chunks[0] * SIZE, (chunks[-1] + 1) * SIZE
        below.plot([begin, end], [row, row], color=colour, linewidth=5, solid_capstyle="butt")
    below.set(xlabel="position", yticks=[], xlim=(-1, LENGTH + 1))
    below.set_ylabel(f"tokens in the {SLOTS} slots")
    for axis in (above, below):
        for edge in range(0, LENGTH + 1, SIZE):
            axis.axvline(edge - 0.5, color=look.faint, linewidth=0.8, zorder=0)
    return figure
