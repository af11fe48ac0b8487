"""What is here: versions, processes, devices, the cache of compiled programs."""

import os
import platform
import socket
import tempfile
from pathlib import Path
from typing import Any

import jax

import bmojo
from bmojo.cache import cache_directory
from bmojo.training.processes import Processes
from bmojo.training.report import PACKAGES, git_revision, version


def versions() -> dict[str, str | None]:
    """Of Python, bmojo and what it stands on, and the git revision of bmojo's source."""
    return {
        "python": platform.python_version(),
        "bmojo": bmojo.__version__,
        "git_revision": git_revision(),
        **{name: version(name) for name in PACKAGES},
    }


def devices(processes: Processes) -> dict[str, Any]:
    """Devices of this process and of all, and the memory of one of this process.

    ``memory_bytes`` is what the backend lets a program use, None where it does not tell;
    ``machine_memory_bytes`` the memory of this machine, which devices of the CPU share.
    """
    local = jax.local_devices()
    limits = [_memory(device) for device in local]
    known = [limit for limit in limits if limit is not None]
    return {
        "host": socket.gethostname(),
        "platform": local[0].platform,
        "kind": local[0].device_kind,
        "process": processes.index,
        "processes": processes.count,
        "local": [str(device) for device in local],
        "all": jax.device_count(),
        "by_process": [
            sum(device.process_index == index for device in jax.devices())
            for index in range(processes.count)
        ],
        "memory_bytes": min(known) if len(known) == len(local) else None,
        "machine_memory_bytes": _machine_memory(),
    }


def cache() -> dict[str, Any]:
    """The directory of compiled programs: whether it can be written, and what it holds."""
    directory = cache_directory() / "jax"
    problem = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-"):
            pass
    except OSError as error:
        problem = error.strerror or str(error)
    sizes = [size for size in map(_size, entries(directory)) if size is not None]
    return {
        "directory": str(directory),
        "problem": problem,
        "entries": len(sizes),
        "bytes": sum(sizes),
        "free_bytes": _free(directory),
    }


def entries(directory: Path) -> set[Path]:
    """Compiled programs in the directory of a cache."""
    return set(directory.glob("*-cache")) if directory.is_dir() else set()


def _memory(device: Any) -> int | None:
    try:
        stats = device.memory_stats()
    except Exception:  # A backend that cannot tell says so in its own ways.
        return None
    return (stats or {}).get("bytes_limit")


def _machine_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _size(path: Path) -> int | None:
    """None: another process has removed it meanwhile."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _free(directory: Path) -> int | None:
    try:
        facts = os.statvfs(directory)
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize
