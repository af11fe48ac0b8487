"""The NKI that kernels use: the real package if there is one, else the emulator.

Kernels write ``from neuron.nki import nisa, nki, nl``. This is the one place that decides;
nothing is installed over the real package.
"""

import dataclasses
import importlib
import os
from typing import Any

FORCE_VARIABLE = "BMOJO_NKI"
"""Environment variable: ``emulator`` takes the emulator even if the real package is there."""

DEGREE_VARIABLE = "NEURON_LOGICAL_NC_CONFIG"
"""Environment variable of the Neuron runtime: physical cores of a logical one."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which NKI is in use.

    Attributes:
      backend: ``nki`` or ``emulator``.
      module: the package.
      version: of the real package, if there is one.
      reason: why this one.
    """

    backend: str
    module: Any
    version: str | None
    reason: str


def choose() -> Choice:
    """Look for the real package and decide.

    A package of the same name without code exists; only one that has both ``jit`` and
    ``simulate`` is the real one.

    Raises:
      ValueError: the environment asks for something unknown.
    """
    wish = os.environ.get(FORCE_VARIABLE, "")
    if wish not in ("", "emulator"):
        raise ValueError(f"{FORCE_VARIABLE}: must be 'emulator' or unset, got {wish!r}")
    if wish:
        return _emulator(None, f"{FORCE_VARIABLE}=emulator")
    try:
        module = importlib.import_module("nki")
        importlib.import_module("nki.isa")
        importlib.import_module("nki.language")
    except ImportError as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return _emulator(None, f"the package nki can't be imported: {words[0]}")
    version = getattr(module, "__version__", None)
    missing = [name for name in ("jit", "simulate") if not hasattr(module, name)]
    if missing:
        return _emulator(version, f"the package nki has no {' and no '.join(missing)}")
    return Choice("nki", module, version, "the package nki has jit and simulate")


def _emulator(version: str | None, reason: str) -> Choice:
    return Choice("emulator", importlib.import_module("neuron.emulator"), version, reason)


CHOICE = choose()
BACKEND = CHOICE.backend
nki: Any = CHOICE.module
nisa: Any = nki.isa
nl: Any = nki.language


def run(kernel: Any, *arrays: Any) -> Any:
    """A kernel's results on NumPy arrays, simulated by whichever NKI is in use."""
    return nki.simulate(kernel)(*arrays)


def on_device(kernel: Any) -> Any:
    """The kernel for a Neuron device, launched on all physical cores of a logical one."""
    degree = os.environ.get(DEGREE_VARIABLE)
    return kernel[int(degree)] if degree else kernel
