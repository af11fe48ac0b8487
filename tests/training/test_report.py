"""What a run says of itself."""

import pytest

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.ops.native import library
from bmojo.training.run_setup import implementations


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
