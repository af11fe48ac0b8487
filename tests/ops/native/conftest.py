"""What tests of kernels share."""

import ctypes
import platform

import pytest


@pytest.fixture(autouse=True)
def memory_holds_anything():
    """New memory, which is often zero by chance, holds large numbers."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    perturb, threshold = -6, -3
    libc = ctypes.CDLL(None)
    libc.mallopt(threshold, 2**25)
    libc.mallopt(perturb, 0xAA)
    yield
    libc.mallopt(perturb, 0)
    libc.mallopt(threshold, 2**17)
