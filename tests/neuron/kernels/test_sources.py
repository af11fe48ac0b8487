"""The kernels use what every supported release of NKI compiles."""

from pathlib import Path

import neuron
from neuron.emulator import lint


def test_our_kernels_compile_with_every_release():
    folder = Path(neuron.__file__).parent / "kernels"
    found = {p.name: lint.check_source(p.read_text()) for p in sorted(folder.glob("*.py"))}
    assert found and all(not findings for findings in found.values()), found
