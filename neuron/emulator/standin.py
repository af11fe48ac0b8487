"""The emulator under the name ``nki``, for a while, to run kernels that others wrote."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

NAMES = ("nki", "nki.isa", "nki.language")


@contextlib.contextmanager
def as_nki() -> Iterator[Any]:
    """``import nki`` gives the emulator inside this context.

    Raises:
      RuntimeError: there is a package of that name; it is never replaced.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("nki")
        raise RuntimeError("a package nki is installed; the emulator does not take its place")
    emulator = importlib.import_module("neuron.emulator")
    sys.modules.update(dict(zip(NAMES, (emulator, emulator.isa, emulator.language), strict=True)))
    try:
        yield emulator
    finally:
        for name in NAMES:
            sys.modules.pop(name, None)
