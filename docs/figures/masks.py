"""Keys that each query of a layer sees, by form, from the layers' own code."""

from unittest import mock

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from look import Look
from matplotlib.colors import to_rgb

import bmojo
from bmojo.layers import bmojo as chunked
from bmojo.layers import bmojo_sliding as sliding
from bmojo.layers.protocol import AuxRequest, MixerConfig
from bmojo.ops.masks import EIDETIC, FADING, WINDOW, memory_keys
from bmojo.ops.selection import InnovationSelection

LENGTH, SIZE = 32, 8
SURPRISES = (2, 5, 13, 22)


def innovation() -> np.ndarray:
    """Given innovations (L,): slowly falling, with a few large ones."""
    score = np.linspace(0.1, 0.2, LENGTH)[::-1].copy()
    score[list(SURPRISES)] = (5, 4, 6, 7)
    return score


def chunked_config(num_fading: int, num_eidetic: int) -> bmojo.BMojoConfig:
    """The layer with this many slots."""
    return bmojo.BMojoConfig(window=SIZE, num_fading=num_fading, num_eidetic=num_eidetic, n_heads=1)


def seen(config: MixerConfig, module: object) -> np.ndarray:
    """For each query and token: 0 unseen, else 1 + the tier of its key (eidetic on top)."""
    layer = config.make(4, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    score = jnp.asarray(innovation(), jnp.float32)[None]
    found = []

    def spy(*operands, **options):
        found.append(memory_keys(*operands, **options))
        return found[0]

    with (
        mock.patch.object(module, "memory_keys", spy),
        mock.patch.object(InnovationSelection, "score", lambda _, state, *__: (score, state.power)),
    ):
        layer(jnp.ones((1, LENGTH, 4)), aux=AuxRequest(bins=1))
    keys = found[0]
    mask, distance = (
        np.asarray(x)[0, :, 0].reshape(-1, x.shape[-1])[:LENGTH] for x in (keys.mask, keys.distance)
    )
    picture = np.zeros((LENGTH, LENGTH), int)
    for tier in (WINDOW, FADING, EIDETIC):
        query, key = np.nonzero(mask & (keys.tier == tier))
        picture[query, query - distance[query, key]] = 1 + tier
    return picture


def token_form(num_eidetic: int) -> np.ndarray:
    """The same for memory that is renewed at every token (Algorithm 1), by its definition."""
    score, picture = innovation(), np.zeros((LENGTH, LENGTH), int)
    for t in range(LENGTH):
        picture[t, max(0, t - SIZE + 1) : t + 1] = 1 + WINDOW
        picture[t, max(0, t - SIZE) : max(0, t - SIZE + 1)] = 1 + FADING
        picture[t, np.argsort(-score[: t + 1], kind="stable")[:num_eidetic]] = 1 + EIDETIC
    return picture


def draw(look: Look) -> plt.Figure:
    """Four pictures: queries go down, tokens to the right."""
    colours = np.array([(*to_rgb(look.ink), 0.06)] + [
        (*to_rgb(getattr(look, name)), 1) for name in ("window", "fading", "eidetic")
    ])  # fmt: skip
    figure, axes = plt.subplots(2, 2, figsize=(6.2, 6.6), layout="constrained")
    for axis, (title, picture) in zip(
        axes.flat,
        (
            ("window alone", seen(chunked_config(0, 0), chunked)),
            ("chunked, 2 fading + 3 eidetic", seen(chunked_config(2, 3), chunked)),
            ("sliding", seen(sliding.SlidingBMojoConfig(window=SIZE, n_heads=1), sliding)),
            ("token, 1 fading + 3 eidetic", token_form(3)),
        ),
        strict=True,
    ):
        axis.imshow(colours[picture], interpolation="none")
        ticks = range(0, LENGTH, SIZE)
        axis.set(xticks=ticks, yticks=ticks)
        axis.set_title(title, loc="left", size=10)
        for edge in ticks:
            axis.axhline(edge - 0.5, color=look.ink, linewidth=0.4, alpha=0.5)
        for name in axis.spines:
            axis.spines[name].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("token")
    for axis in axes[:, 0]:
        axis.set_ylabel("query")
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=getattr(look, name))
        for name in ("window", "fading", "eidetic")
    ]
    figure.legend(handles, ["window", "fading", "eidetic"], loc="outside lower center", ncols=3)
    return figure
