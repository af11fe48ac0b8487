"""Mixers by width and keywords: ``BMojo(256, window=64)`` for ``BMojoConfig(window=64).make(...)``.

One function for each config. It takes the width, the config's fields as keywords, and besides
``rngs`` (default ``nnx.Rngs(0)``), ``dtype`` and ``param_dtype`` (default float32).
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from bmojo.errors import suggestion
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.protocol import Mixer
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.types import DType

__all__ = ["MLP", "SSD", "Attention", "BMojo", "CanonicalSSM", "SelectiveSSM", "SlidingBMojo"]


def _function(config: Any) -> Callable[..., Mixer]:
    """The function that makes mixers of one kind of config."""
    name = config.__name__.removesuffix("Config")
    fields = [field.name for field in dataclasses.fields(config)]

    def make(
        d_model: int,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        **options: Any,
    ) -> Mixer:
        for option in options:
            if option not in fields:
                raise TypeError(f"{name}: no option {option!r}; {suggestion(option, fields)}")
        return config(**options).make(d_model, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    own = list(inspect.signature(make).parameters.values())[:-1]
    keywords = [
        p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(config).parameters.values()
    ]
    signature = inspect.Signature([own[0], *keywords, *own[1:]], return_annotation=Mixer)
    make.__signature__ = signature  # type: ignore[attr-defined]
    make.__name__ = make.__qualname__ = name
    options_text = inspect.cleandoc(config.__doc__ or "")
    make.__doc__ = f"Make a {name} mixer of width ``d_model``.\n\n{options_text}"
    return make


Attention = _function(AttentionConfig)
BMojo = _function(BMojoConfig)
CanonicalSSM = _function(CanonicalSSMConfig)
MLP = _function(MLPConfig)
SSD = _function(SSDConfig)
SelectiveSSM = _function(SelectiveSSMConfig)
SlidingBMojo = _function(SlidingBMojoConfig)
