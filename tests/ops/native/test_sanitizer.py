"""The kernels read and write their own memory only, by the address sanitizer."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = os.environ.get("CXX", "c++")


def runtime():
    """The libraries that must be loaded first; None: the compiler has no sanitizer."""
    paths = []
    for name in ("libasan.so", "libstdc++.so"):  # whose __cxa_throw the former looks for
        command = [*shlex.split(COMPILER), f"-print-file-name={name}"]
        try:
            paths.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
        except OSError:
            return None
    return " ".join(paths) if all(map(os.path.isabs, paths)) else None


@pytest.mark.slow
@pytest.mark.skipif(runtime() is None, reason=f"{COMPILER} has no address sanitizer")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_kernel_leaves_its_memory(tmp_path, dtype):
    environment = os.environ | {
        "CXX": f"{COMPILER} -fsanitize=address -fno-omit-frame-pointer",
        "BMOJO_NATIVE_DIR": str(tmp_path),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0",
        "LD_PRELOAD": runtime(),
    }
    command = [sys.executable, "-m", "tests.ops.native.sanitized", dtype]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "clean" in done.stdout, done.stderr[-4000:]
