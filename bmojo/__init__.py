"""B'MOJO: sequence models that join eidetic, fading and window memory in one layer.

The public names are imported when they are first used, so that ``import bmojo`` is quick::

    layer = bmojo.BMojo(256, window=64, num_eidetic=32)    # a mixer of width 256
    model = bmojo.load("runs/text/bmojo")                  # a trained model
    print(model.generate("def ", max_new_tokens=64))
"""

# ruff: noqa: F401

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_MIXERS = ("MLP", "SSD", "Attention", "BMojo", "CanonicalSSM", "SelectiveSSM", "SlidingBMojo")
_MODULES = {
    "bmojo.experiment": ("register",),
    "bmojo.layers.attention": ("AttentionConfig",),
    "bmojo.layers.bmojo": ("BMojoConfig",),
    "bmojo.layers.bmojo_sliding": ("SlidingBMojoConfig",),
    "bmojo.layers.canonical": ("CanonicalSSMConfig",),
    "bmojo.layers.mlp": ("MLPConfig",),
    "bmojo.layers.selective_ssm": ("SelectiveSSMConfig",),
    "bmojo.layers.ssd": ("SSDConfig",),
    "bmojo.loading": ("TrainedModel", "load"),
    "bmojo.mixers": _MIXERS,
    "bmojo.model": ("Model", "ModelConfig"),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604

if TYPE_CHECKING:
    from bmojo.experiment import register
    from bmojo.layers.attention import AttentionConfig
    from bmojo.layers.bmojo import BMojoConfig
    from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
    from bmojo.layers.canonical import CanonicalSSMConfig
    from bmojo.layers.mlp import MLPConfig
    from bmojo.layers.selective_ssm import SelectiveSSMConfig
    from bmojo.layers.ssd import SSDConfig
    from bmojo.loading import TrainedModel, load
    from bmojo.mixers import MLP, SSD, Attention, BMojo, CanonicalSSM, SelectiveSSM, SlidingBMojo
    from bmojo.model import Model, ModelConfig


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bmojo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
