"""Memory of the C library: freed memory is kept, in one heap of large pages.

XLA's CPU client allocates and frees a program's buffers at every call, on threads. Left alone,
glibc gives them small heaps, returns large blocks to the system at once, and each call pays a
page fault per 4 KiB. Other C libraries are left as they are.
"""

import ctypes
import multiprocessing
import os
import sys
from pathlib import Path

__all__ = ["environment", "keep_freed_memory", "restart_with_tunables"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1

TUNABLES = "GLIBC_TUNABLES"
ONE_HEAP, LARGE = "glibc.malloc.arena_max", "glibc.malloc.hugetlb"
SINCE = {ONE_HEAP: (2, 26), LARGE: (2, 35)}
"""The first glibc that knows each."""

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COMMANDS = ("train", "eval", "generate", "inspect", "bench")
"""Commands that compute."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory; false if that could not be set.

    The process goes on holding what it needed at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def restart_with_tunables() -> None:
    """Start this program again, in the same process, if it computes and a tunable is missing.

    A process of ``multiprocessing`` stays as it is: its arguments are not those of a program.
    """
    wanted = environment(dict(os.environ))
    if multiprocessing.parent_process() is not None:
        return
    if wanted != os.environ and sys.executable and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def environment(given: dict[str, str]) -> dict[str, str]:
    """An environment in which glibc keeps one heap, of large pages; ``given`` if nothing changes.

    A thread's own heap holds 64 MiB at most; the heap of the process has no bound. In pages of
    2 MiB, its first touch costs a fault for 512 pages of 4 KiB. Where the system's policy is to
    give large pages always or never, nothing is asked for. A value that is set is left as it is.
    """
    name, _, version = _library().partition(" ")
    if name != "glibc":
        return given
    was = given.get(TUNABLES, "")
    asked = [(ONE_HEAP, True), (LARGE, _large_on_request())]
    new = [
        f"{tunable}=1"
        for tunable, useful in asked
        if useful and tunable not in was and _numbers(version) >= SINCE[tunable]
    ]
    return given | {TUNABLES: ":".join(filter(None, [was, *new]))} if new else given


def _library() -> str:
    if not sys.platform.startswith("linux"):
        return ""
    return os.confstr("CS_GNU_LIBC_VERSION") or ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def _large_on_request() -> bool:
    return POLICY.is_file() and "[madvise]" in POLICY.read_text()
