"""How tests compare numbers."""

import jax
import numpy as np

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def relative_rms(actual, expected) -> float:
    """Root mean square of the difference over that of ``expected``."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    scale = np.sqrt(np.mean(expected**2)) if expected.size else 0.0
    error = np.sqrt(np.mean((actual - expected) ** 2)) if expected.size else 0.0
    return float(error / scale) if scale > 0 else float(error)


def assert_close(actual, expected, dtype, what="") -> None:
    """Trees of arrays agree leaf by leaf within the tolerance of the dtype."""
    limit = TOLERANCE[np.dtype(dtype).name]
    got, want = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (actual, expected))
    assert got.keys() == want.keys()
    for path, leaf in want.items():
        error = relative_rms(got[path], leaf)
        assert error <= limit, f"{what}{jax.tree_util.keystr(path)}: {error:.2e} > {limit:.0e}"
