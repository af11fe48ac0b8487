"""Shapes and dtypes of every annotated function are checked while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook(["bmojo.ops", "bmojo.layers"], "beartype.beartype")

import jax
import pytest


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The compute dtype of a numeric test; float64 is switched on for that test alone."""
    with jax.enable_x64(request.param == "float64"):
        yield jax.numpy.dtype(request.param)
