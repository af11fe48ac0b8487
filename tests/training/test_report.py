"""What a run says of itself."""

import pytest

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.ops.native import library
from bmojo.training.report import implementations


def test_cells_say_who_computes_them():
    assert implementations(BMojoConfig(fading=SSDConfig(implementation="xla"))) == {"SSD": "xla"}
    assert implementations(CanonicalSSMConfig()) == {"CanonicalSSM": "sequential (auto on cpu)"}
    for config in (SSDConfig(), SelectiveSSMConfig()):
        (said,) = implementations(config).values()
        assert said.endswith(" (auto on cpu)")


def test_a_kernel_that_cannot_be_made_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(library, "why_not", lambda: "no compiler")
    for config in (SSDConfig, SelectiveSSMConfig):
        with pytest.raises(ValueError, match="no native kernels: no compiler"):
            implementations(config(implementation="native"))
