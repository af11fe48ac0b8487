import time

import pytest

from bmojo.storage import search


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    """Small stores fit into one block; the same results have to come from many, on three cores."""
    if request.param == "many blocks":
        monkeypatch.setattr(search, "BLOCK", 32)
        monkeypatch.setattr(search, "TILE", (8, 16))
        monkeypatch.setattr(search, "CORES", 3)


@pytest.fixture
def clock(monkeypatch):
    """Sets the time, which is 0 first."""

    def to(seconds):
        monkeypatch.setattr(time, "time", lambda: float(seconds))

    to(0)
    return to
