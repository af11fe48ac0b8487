"""Shapes and dtypes of every annotated function are checked while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["bmojo.ops", "bmojo.layers"], "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The compute dtype of a numeric test; float64 is switched on for that test alone."""
    with jax.enable_x64(request.param == "float64"):
        yield jax.numpy.dtype(request.param)
