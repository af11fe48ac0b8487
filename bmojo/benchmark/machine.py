"""What a measurement was taken on, and by whom it could be disturbed."""

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from bmojo.malloc import keep_freed_memory
from bmojo.training.report import provenance

__all__ = ["QUIET", "busy", "cached", "load", "record", "threads"]

QUIET = 0.5
"""Load average above which other work is taken to be running."""


def threads() -> int:
    """Cores that this process may run on, and so threads of XLA on a CPU."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """Processes that ran or waited to run over the last minute; None if the system has no count."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def record() -> dict[str, Any]:
    """Command, versions, device, CPU, threads, load and date; memory that is freed is kept.

    Keeping it is what ``bmojo train`` does too.
    """
    kept = keep_freed_memory()
    facts = provenance(0)
    del facts["seed"]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
        "cpu": cpu_model(),
        "threads": threads(),
        "cores": os.cpu_count(),
        "load_at_start": load(),
        "freed_memory_kept": kept,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "compilation_cache": jax.config.values.get("jax_compilation_cache_dir"),
    }


def cached(facts: Mapping[str, Any]) -> str | None:
    """A warning if compiled programs may come from a cache; None if there is none."""
    directory = facts["compilation_cache"]
    if directory is None:
        return None
    return f"compile times may be those of reading the cache in {directory}; unset its variable"


def busy(average: float | None) -> str | None:
    """A warning if the load average tells of other work; None if it does not."""
    if average is None or average <= QUIET:
        return None
    return (
        f"OTHER WORK IS RUNNING: the load average is {average:.2f}, above {QUIET}. Times are those "
        "of a shared machine; stop the other work and measure again"
    )


def cpu_model() -> str:
    """The name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
