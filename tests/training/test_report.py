"""Implementations that a run reports."""

import pytest

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.ops.native import library
from bmojo.training import run_setup


def implementations(mixer):
    """Of a model with this mixer."""
    return run_setup.implementations(ModelConfig(8, 8, 1, (mixer, mixer)))


def test_cells_say_who_computes_them():
    layer = BMojoConfig(fading=SSDConfig(implementation="xla"), attention_implementation="xla")
    assert implementations(layer) == {"attention": "xla", "SSD scan": "xla"}
    cell = CanonicalSSMConfig()
    assert implementations(cell) == {"CanonicalSSM scan": "sequential (auto on cpu)"}
    bare = BMojoConfig(window=0, num_fading=0, num_eidetic=0, fading=cell)
    assert implementations(bare) == implementations(cell)
    for config in (SSDConfig(), SelectiveSSMConfig()):
        (said,) = implementations(config).values()
        assert said.endswith(" (auto on cpu)")


def test_a_kernel_that_cannot_be_made_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(library, "why_not", lambda: "no compiler")
    asked = [SSDConfig(implementation="native"), SelectiveSSMConfig(implementation="native")]
    for config in (*asked, BMojoConfig(attention_implementation="native")):
        with pytest.raises(ValueError, match="no native kernels: no compiler"):
            implementations(config)
