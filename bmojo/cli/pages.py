"""Memory in large pages, which has to be asked for before a program starts."""

import os
import sys
from pathlib import Path

TUNABLES, LARGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
SINCE = (2, 35)
"""The glibc that knows it."""

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COMMANDS = ("train", "eval", "generate", "inspect", "bench")
"""That compute."""


def environment(given: dict[str, str]) -> dict[str, str]:
    """An environment in which the C library asks for large pages; ``given`` if it would not.

    XLA's CPU client gets the memory of a program anew at every call, on threads whose heaps
    glibc does not keep. In pages of 4 KiB a training step then pays a page fault for each of
    them; in pages of 2 MiB, 1 in 512. Where the system's policy is to give large pages always
    or never, there is nothing to ask for. A value that somebody has set is left as it is.
    """
    if not sys.platform.startswith("linux") or LARGE in given.get(TUNABLES, ""):
        return given
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < SINCE:
        return given
    if not POLICY.is_file() or "[madvise]" not in POLICY.read_text():
        return given
    tunables = [t for t in (given.get(TUNABLES), f"{LARGE}=1") if t]
    return given | {TUNABLES: ":".join(tunables)}


def take_large_pages() -> None:
    """Start this program again, in the same process, with large pages if that needs asking."""
    wanted = environment(dict(os.environ))
    if wanted != os.environ and sys.executable and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
