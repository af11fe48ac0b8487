"""What each query of a layer sees, in each form: asked from the layers' own code."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from bmojo.layers.forms import FORMS, Call
from flax import nnx
from look import Look
from matplotlib.colors import to_rgb

from bmojo.layers.bmojo import BMojoConfig
from bmojo.ops.masks import EIDETIC, FADING, WINDOW
from bmojo.ops.positions import advance
from bmojo.ops.time_sharding import UNSHARDED

LENGTH, SIZE = 32, 8
SURPRISES = (2, 5, 13, 22)


def seen(form: str, num_fading: int, num_eidetic: int) -> np.ndarray:
    """For each query and token: 0 unseen, else 1 + the tier of its key (eidetic on top)."""
    config = BMojoConfig(
        window=SIZE, num_fading=num_fading, num_eidetic=num_eidetic, n_heads=1, form=form
    )  # type: ignore[arg-type]
    layer = config.make(4, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    before = layer.init_state(1)
    score = np.linspace(0.1, 0.2, LENGTH)[::-1].copy()
    score[list(SURPRISES)] = (5, 4, 6, 7)
    tokens = jnp.ones((1, LENGTH, 4))
    span, _ = advance(before.positions, LENGTH)
    call = Call(
        window=SIZE,
        num_fading=num_fading,
        num_eidetic=num_eidetic,
        context=UNSHARDED,
        before=before,
        span=span,
        offset=None,
        lengths=None,
        new=layer.heads.key_values(tokens),
        y=tokens,
        project=layer.heads.key_values,
        score=jnp.asarray(score, jnp.float32)[None] if num_eidetic else None,
    )
    sight, _ = FORMS[form](call)
    view = sight.view()
    blocks, block = view.mask.shape[1:3]
    mask, distance = (
        np.asarray(x)[0].reshape(blocks * block, -1)[:LENGTH] for x in (view.mask, view.distance)
    )
    picture = np.zeros((LENGTH, LENGTH), int)
    for tier in (WINDOW, FADING, EIDETIC):
        query, key = np.nonzero(mask & (view.tier == tier))
        picture[query, query - distance[query, key]] = 1 + tier
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
            ("window alone", seen("chunked", 0, 0)),
            ("chunked, 2 fading + 3 eidetic", seen("chunked", 2, 3)),
            ("sliding", seen("sliding", 1, 0)),
            ("token, 1 fading + 3 eidetic", seen("token", 1, 3)),
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
