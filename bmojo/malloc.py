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

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

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
    linux = sys.platform.startswith("linux")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if linux else None
    never = -1
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, never))


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
    numbers = tuple(map(int, version.split(".")[:2]))
    on_request = POLICY.is_file() and "[madvise]" in POLICY.read_text()
    asked = (ONE_HEAP, LARGE) if on_request else (ONE_HEAP,)
    new = [f"{name}=1" for name in asked if name not in was and numbers >= SINCE[name]]
    return given | {TUNABLES: ":".join(filter(None, [was, *new]))} if new else given


def _library() -> str:
    return (sys.platform.startswith("linux") and os.confstr("CS_GNU_LIBC_VERSION")) or ""
