"""Processes without this suite's conftest: JAX's own registration of states, and XLA's flags."""

import os
import subprocess
import sys
from pathlib import Path

from tests.xla_flags import QUICK_TO_COMPILE, quick_to_compile


def test_states_work_as_jax_registers_them():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_TO_COMPILE}
    program = [sys.executable, "-m", "tests.registered_states"]
    root = Path(__file__).parent.parent
    shown = subprocess.run(program, capture_output=True, text=True, cwd=root, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("ok")


def test_flags_are_those_that_xla_knows():
    emitters = "--xla_cpu_use_fusion_emitters=false"
    assert emitters in quick_to_compile("0.10.2")
    for newer in ("0.11.0", "0.12.0.1", "1.0"):
        assert quick_to_compile(newer) == "--xla_backend_optimization_level=0"
