"""The devices of a run and their memory."""

import os
import socket
from collections.abc import Callable
from typing import Any

import jax

from bmojo.multihost import Processes

UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def devices(processes: Processes) -> dict[str, Any]:
    """Devices of this process and of all, and the memory of one of this process.

    ``memory_bytes`` is the memory that the backend gives to a program, None if unknown;
    ``machine_memory_bytes`` the memory of this machine, which devices of the CPU share.
    """
    local = jax.local_devices()
    limits = [_memory_limit(device) for device in local]
    known = [limit for limit in limits if limit is not None]
    owners = [device.process_index for device in jax.devices()]
    return {
        "host": socket.gethostname(),
        "platform": local[0].platform,
        "kind": local[0].device_kind,
        "process": processes.index,
        "processes": processes.count,
        "local": [str(device) for device in local],
        "all": jax.device_count(),
        "by_process": [owners.count(index) for index in range(processes.count)],
        "memory_bytes": min(known) if len(known) == len(local) else None,
        "machine_memory_bytes": from_system(
            lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        ),
    }


def _memory_limit(device: Any) -> int | None:
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except Exception:  # Each backend without statistics has its own error.
        return None


def from_system(read: Callable[[], int]) -> int | None:
    """A number that the system may not have; None then."""
    try:
        return read()
    except (ValueError, OSError):
        return None


def size(number: float | None) -> str:
    """A number of bytes in a few characters."""
    if number is None:
        return "unknown"
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.4g} {name}"
    return f"{number:.0f} bytes"
