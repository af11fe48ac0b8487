"""Operations, scores and bytes of a token in one layer, by formula."""

import functools
import math
from typing import Any

import jax
from flax import nnx

from bmojo.description import Description
from bmojo.layers.bmojo import BMojo
from bmojo.layers.selective_ssm import SelectiveSSM
from bmojo.layers.ssd import SSD
from bmojo.model import Block, ModelConfig

KEPT = 32
"""Tokens between the states that Mamba's scan keeps."""


@functools.cache
def _block(config: ModelConfig) -> Block:
    return nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))


def mixers(description: Description) -> list[Any]:
    """The mixers of all layers, their parameters without values."""
    config = description.config
    return [sublayer.mixer for sublayer in _block(config).sublayers] * config.num_blocks


def elementwise(mixer: Any) -> float:
    """Operations for a token that ``flops_per_token`` counts and that are no matrix product."""
    if isinstance(mixer, BMojo):
        return elementwise(mixer.fading)
    if isinstance(mixer, SelectiveSSM):
        taps = 2 * mixer.config.d_conv
        return float(mixer.d_inner * (7 * mixer.config.d_state + 3 + taps))
    if isinstance(mixer, SSD):
        return float(2 * mixer.config.d_conv * (mixer.d_inner + 2 * mixer.config.d_state))
    return 0.0


def scores(mixer: Any, length: int, last: bool = False) -> float:
    """Scores for a token, all heads: an average over a sequence, or of its last token."""
    if not hasattr(mixer, "heads"):
        return 0.0
    past = length if last else (length + 1) / 2
    if isinstance(mixer, BMojo):
        config = mixer.config
        seen = min(config.window, past) + config.num_fading + min(config.num_eidetic, length)
    else:
        seen = min(mixer.config.window or math.inf, past)
    return mixer.heads.n_heads * seen


def activation_bytes(mixer: Any, width: int) -> float:
    """Bytes for a token and pass: what products, scan, attention and norm read and write.

    Inputs and outputs of products are bfloat16, those of a scan float32; scores stay on the
    chip, and keys and values are read once.
    """
    found = jax.tree_util.tree_leaves_with_path(nnx.state(mixer, nnx.Param))
    names = [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in found]
    products = [x.shape for name, x in names if "proj" in name and len(x.shape) == 2]
    moved = 2.0 * sum(sum(shape) for shape in products) + 2.0 * 5 * width
    cell = mixer.fading if isinstance(mixer, BMojo) else mixer
    if isinstance(cell, SelectiveSSM | SSD):
        states = cell.config.d_state
        moved += 4.0 * (3 * cell.d_inner + 2 * states)
        kept = cell.config.chunk_size if isinstance(cell, SSD) else KEPT
        moved += 2.0 * 4 * cell.d_inner * states / kept
    if hasattr(mixer, "heads"):
        moved += 2.0 * 4 * width
    return moved
