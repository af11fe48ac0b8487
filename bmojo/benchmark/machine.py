"""The machine: its description, the load of other work, and its peak rates."""

import datetime
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark.cases import Case, Check, compare, compiled
from bmojo.malloc import keep_freed_memory
from bmojo.training.report import provenance
from bmojo.types import Array

QUIET = 0.5  # load average above which other work is taken to be running
CALIBRATION = "calibration"  # group of the cases that measure peak rates
SQUARE = 2048  # rows of the large square matrices
COPIED = 2**25  # numbers that are copied: 128 MiB, more than fits into caches
EXPONENTIALS = 2**20


def threads() -> int:
    """Cores that this process may use, and so threads of XLA on a CPU."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """The load average of the last minute; None if the system has none."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def record() -> dict[str, Any]:
    """Command, versions, device, CPU, threads, load and date.

    From here on, freed memory is kept, as in ``bmojo train``.
    """
    kept = keep_freed_memory()
    facts = provenance(0)
    del facts["seed"]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
        "cpu": _cpu_model(),
        "threads": threads(),
        "cores": os.cpu_count(),
        "load_at_start": load(),
        "freed_memory_kept": kept,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "compilation_cache": jax.config.values.get("jax_compilation_cache_dir"),
    }


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """Warnings for a record: other work is running, or compiled programs may come from a cache."""
    found = []
    average, cache = facts["load_at_start"], facts["compilation_cache"]
    if average is not None and average > QUIET:
        found.append(
            f"OTHER WORK IS RUNNING: the load average is {average:.2f}, above {QUIET}. Times are "
            "those of a shared machine; stop the other work and measure again"
        )
    if cache is not None:
        found.append(
            f"compile times may be those of reading the cache in {cache}; unset its variable"
        )
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def calibration(length: int, width: int) -> list[Case]:
    """Cases of float32 matrix products, copies and exponentials.

    Their ``facts`` have ``work`` (operations, bytes read and written, or exponentials of a call)
    and ``rate``, the unit of a billion of them a second.
    """

    def case(name: str, function: Callable[..., Array], work: float, rate: str, *x: Array) -> Case:
        flops = work if rate == "GFLOP/s" else None
        facts = {"work": work, "rate": rate}
        return compiled(function, *x).case(name, CALIBRATION, x, flops=flops, facts=facts)

    shapes = [(length, width, width), (length, width, 4 * width), (SQUARE, SQUARE, SQUARE)]
    cases = []
    for m, k, n in dict.fromkeys(shapes):
        pair = jnp.ones((m, k), jnp.float32), jnp.ones((k, n), jnp.float32)
        cases.append(case(f"GEMM {m} x {k} x {n}", jnp.matmul, 2.0 * m * k * n, "GFLOP/s", *pair))
    zeros, some = jnp.zeros((COPIED,), jnp.float32), jnp.linspace(-1.0, 1.0, EXPONENTIALS)
    cases.append(case("copy (x + 1)", lambda x: x + 1, 8.0 * COPIED, "GB/s", zeros))
    return [*cases, case("exp", jnp.exp, float(EXPONENTIALS), "Gexp/s", some)]


def check_calibration() -> list[Check]:
    """The same operations on small arrays, against NumPy in float64."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(33, 65)).astype("f4"), rng.normal(size=(65, 17)).astype("f4")
    wide = x.astype("f8")
    pairs = {
        "GEMM": (jnp.matmul(x, y), wide @ y.astype("f8")),
        "copy (x + 1)": (jnp.asarray(x) + 1, wide + 1),
        "exp": (jnp.exp(x), np.exp(wide)),
    }
    return [compare(name, "result and NumPy's", *pair) for name, pair in pairs.items()]
