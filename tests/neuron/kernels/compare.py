"""Running kernels on arrays, and how far two arrays are apart."""

import numpy as np

from neuron.nki import nki


def run(kernel, *arguments, programs=None, **options):
    """The kernel's results; ``programs`` launches it on that many cores."""
    launched = kernel if programs is None else kernel[programs]
    return nki.simulate(launched)(*arguments, **options)


def distance(found, expected):
    """Root mean square of the difference, relative to that of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape and np.isfinite(found).all()
    return np.sqrt(np.mean((found - expected) ** 2) / max(np.mean(expected**2), 1e-30))


def time_last(x):
    """(batch, L, channels) as (batch, channels, L)."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(x), 1, -1))
