"""One B'MOJO layer, B'MOJO and MLP, as a sequence of its steps."""

from typing import Any

from bmojo.layers.bmojo import BMojo
from bmojo.layers.selective_ssm import SelectiveSSM
from bmojo.layers.ssd import SSD
from bmojo.model import Block
from bmojo.types import Array
from scripts.performance.attention import attend
from scripts.performance.cells import mamba, mamba2
from scripts.performance.steps import MLP_PART, NORM, NORMS, SILU, Run


def layer(run: Run, block: Block, x: Array) -> Array:
    """The outputs of a layer for whole sequences (B, L, D), step by step.

    Args:
      run: what is done with each step: called with the name of its part, its forward operations
        by formula, a function, the modules that it uses and its arrays.
      block: B'MOJO in chunks, with tied projections and tokens made by the cell, and an MLP.
      x: the residual stream.

    Raises:
      ValueError: the block is another one.
    """
    first, second = block.sublayers
    mixer = first.mixer
    _check(mixer)
    norm_flops = float(x.size * (NORM + 1))
    u = run(NORMS, norm_flops - x.size, lambda norm, x: norm(x), first.norm, x)
    y = (mamba if isinstance(mixer.fading, SelectiveSSM) else mamba2)(run, mixer.fading, u)
    x = _plus(run, x, attend(run, mixer, u, y))
    u = run(NORMS, norm_flops - x.size, lambda norm, x: norm(x), second.norm, x)
    mlp = second.mixer
    tokens = u.shape[0] * u.shape[1]
    flops = tokens * (mlp.flops_per_token(u.shape[1]) + (SILU + 1) * mlp.d_ff)
    return _plus(run, x, run(MLP_PART, flops, lambda mlp, u: mlp(u)[0], mlp, u))


def _check(mixer: Any) -> None:
    if not isinstance(mixer, BMojo) or not isinstance(mixer.fading, SelectiveSSM | SSD):
        raise ValueError(
            "pattern: the first mixer must be B'MOJO with the cell of Mamba or Mamba-2"
        )
    wanted = {"tokens": "ssm", "read_fading": True, "tie_projections": True}
    for name, value in wanted.items():
        if getattr(mixer.config, name) != value:
            raise ValueError(f"{name}: must be {value!r} here; leave it at its default")
    if not mixer.config.num_eidetic or mixer.config.normalize_innovation:
        raise ValueError("num_eidetic: must be at least 1, without normalize_innovation")


def _plus(run: Run, x: Array, out: Array) -> Array:
    return run(NORMS, float(x.size), lambda _, x, out: x + out, (), x, out)
