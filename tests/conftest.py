"""Shapes and dtypes of every annotated function are checked while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from bmojo.cache import cache_directory  # noqa: E402
from tests.xla_flags import QUICK_TO_COMPILE  # noqa: E402

os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)

# Kernels are compiled once for all tests, those with caches of their own too.
os.environ.setdefault("BMOJO_NATIVE_DIR", str(cache_directory() / "native"))

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["bmojo.ops", "bmojo.layers"], "beartype.beartype")

import collections  # noqa: E402
import dataclasses  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

# For sequences over several devices; a call that names none of them runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
register_dataclass = jax.tree_util.register_dataclass


def _register_dataclass(cls, *fields, **options):
    """Let JAX rebuild states with placeholders, which no array annotation would accept.

    ``tests/test_registered_states.py`` uses the real function.
    """
    if fields or options or not cls.__module__.startswith("bmojo"):
        return register_dataclass(cls, *fields, **options)
    known = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    names = [f.name for f in dataclasses.fields(cls) if f.name not in known]

    def children(state):
        values = [(jax.tree_util.GetAttrKey(name), getattr(state, name)) for name in names]
        return values, tuple(getattr(state, name) for name in known)

    def rebuild(static, values):
        state = object.__new__(cls)
        for name, value in zip(known + names, [*static, *values], strict=True):
            object.__setattr__(state, name, value)
        return state

    jax.tree_util.register_pytree_with_keys(cls, children, rebuild)
    return cls


jax.tree_util.register_dataclass = _register_dataclass


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test with ``one_in(n)`` all cases but every n-th are slow."""
    seen = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("one_in")
        if marker is None or item.get_closest_marker("slow"):
            continue
        name = item.nodeid.partition("[")[0]
        if seen[name] % marker.args[0]:
            item.add_marker("slow")
        seen[name] += 1


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Give compiled programs back: Linux maps at most 65,530 pieces of memory in a process."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > 25_000:
        jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The compute dtype of a numeric test; float64 is switched on for that test alone."""
    with jax.enable_x64(request.param == "float64"):
        yield jax.numpy.dtype(request.param)
