"""Which model a store belongs to."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np
from flax import nnx

from bmojo.session.layers import stored_layers
from bmojo.storage import Identity

__all__ = ["identify"]


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
