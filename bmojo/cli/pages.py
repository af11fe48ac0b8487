"""How the C library gives memory, which has to be asked for before a program starts."""

import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
ONE_HEAP, LARGE = "glibc.malloc.arena_max", "glibc.malloc.hugetlb"
SINCE = {ONE_HEAP: (2, 26), LARGE: (2, 35)}
"""The glibc that knows them."""

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COMMANDS = ("train", "eval", "generate", "inspect", "bench")
"""That compute."""


def environment(given: dict[str, str]) -> dict[str, str]:
    """An environment in which glibc keeps one heap, of large pages; ``given`` if it would not.

    XLA's CPU client gets the memory of a program anew at every call, on threads. A thread's own
    heap holds 64 MiB at most; larger blocks come from the system each time, and a step pays a
    page fault for each page of them. The heap of the process has no bound, and keeps what was
    freed (:func:`~bmojo.training.pages.keep_pages`). In pages of 2 MiB, its first touch costs a
    fault for 512 pages of 4 KiB. Where the system's policy is to give large pages always or
    never, there is nothing to ask for. A value that somebody has set is left as it is.
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


def ask_for_memory() -> None:
    """Start this program again, in the same process, if memory has to be asked for."""
    wanted = environment(dict(os.environ))
    if wanted != os.environ and sys.executable and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
