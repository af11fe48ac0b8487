"""Estimates of cost at a model's size: near the bounds, every byte once."""

import numpy as np
import pytest

from neuron import estimates


@pytest.mark.parametrize("kernels", [estimates.ssds, estimates.convolutions])
def test_kernels_are_near_their_bounds(kernels, monkeypatch):
    monkeypatch.setattr(estimates, "LENGTH", 512)
    for estimate in kernels(np.float32):
        assert 1 <= estimate.seconds / estimate.least_seconds < 1.4, estimate.name
        assert 1 <= estimate.moved_bytes / estimate.least_bytes < 1.01, estimate.name
        assert estimate.line().startswith(estimate.name)


def test_scans_are_near_their_bounds(monkeypatch):
    monkeypatch.setattr(estimates, "CHANNELS", 384)
    monkeypatch.setattr(estimates, "STATES", 8)
    for estimate in estimates.scans(np.float32):
        assert 1 <= estimate.seconds / estimate.least_seconds < 1.4, estimate.name
        assert 1 <= estimate.moved_bytes / estimate.least_bytes < 1.01, estimate.name
