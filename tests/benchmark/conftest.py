"""Sizes at which everything that is measured takes no time."""

import pytest

from bmojo.benchmark import machine
from bmojo.benchmark.models import Dimensions

TINY = Dimensions(width=16, layers=2, heads=2, vocabulary=24, window=4, num_fading=2, num_eidetic=2)


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def small_calibration(monkeypatch):
    for name, size in (("SQUARE", 8), ("COPIED", 64), ("EXPONENTIALS", 64)):
        monkeypatch.setattr(machine, name, size)
