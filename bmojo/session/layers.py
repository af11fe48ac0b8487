"""Layers of a model that can have a store, the cells they read in, and the store's identity."""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import numpy as np
from flax import nnx

from bmojo.errors import UserError
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.storage import Identity

__all__ = ["StoredLayer", "identify", "largest_cell", "stored_layers"]

CELL = 32
"""Tokens of a cell, at most, unless more are wanted."""


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """A layer that has a store.

    ``number`` counts mixers, not MLPs, from 1 at the bottom; ``period`` is the repetition of the
    pattern, ``index`` the place in it. It has a ``window`` W and ``heads`` G of a ``width`` P.
    """

    number: int
    period: int
    index: int
    window: int
    heads: int
    width: int


def stored_layers(config: Any) -> list[StoredLayer]:
    """The layers with eidetic slots of a :class:`bmojo.model.ModelConfig`, from the bottom.

    Raises:
      UserError: there is none, or their heads differ.
    """
    found, number = [], 0
    for period in range(config.num_blocks):
        for index, mixer in enumerate(config.pattern):
            if isinstance(mixer, MLPConfig):
                continue
            number += 1
            if isinstance(mixer, BMojoConfig) and mixer.num_eidetic:
                heads = mixer.n_kv_heads or mixer.n_heads
                width = config.d_model // mixer.n_heads
                found.append(StoredLayer(number, period, index, mixer.window, heads, width))
    if not found:
        raise UserError(
            "memory: no layer of the model has eidetic slots, so that nothing decides what to "
            "store; take a run of a model with BMojo.num_eidetic above 0"
        )
    if len({(layer.heads, layer.width) for layer in found}) > 1:
        raise UserError(
            "memory: layers with different heads cannot share a store; give every BMojo the same "
            "n_heads and n_kv_heads"
        )
    return found


def largest_cell(layers: list[StoredLayer], wanted: int | None = None) -> int:
    """Tokens of a cell: what is wanted, or as many as fit the layers' chunks, 32 at most.

    Raises:
      UserError: what is wanted does not divide a window.
    """
    if wanted is None:
        common = math.gcd(*(layer.window for layer in layers))
        return next(size for size in range(CELL, 0, -1) if common % size == 0)
    for layer in layers:
        if layer.window % wanted:
            raise UserError(
                f"--memory-every: cells of {wanted} tokens do not divide the window of "
                f"{layer.window} of layer {layer.number}; give a divisor of it"
            )
    return wanted


def identify(model: Any, tokenizer: Any | None, description: str) -> Identity:
    """The identity of a model's store.

    Keys and values mean something only to the parameters that made them: the fingerprint covers
    the config and every bit of every parameter.

    Args:
      model: a :class:`bmojo.model.Model`.
      tokenizer: of the run; None: it has none.
      description: of the model, for people.

    Raises:
      UserError: the model has no layer that can use a store.
    """
    layers = stored_layers(model.config)
    digest = hashlib.sha256(repr(dataclasses.replace(model.config, remat="none")).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return Identity(
        model=digest.hexdigest(),
        tokenizer="" if tokenizer is None else str(tokenizer.fingerprint),
        heads=layers[0].heads,
        width=layers[0].width,
        layers=tuple(layer.number for layer in layers),
        description=description,
        tokenizer_spec="" if tokenizer is None else str(tokenizer.spec),
    )
