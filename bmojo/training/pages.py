"""Keep memory that was freed, instead of fetching it from the operating system at every step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1


def keep_pages() -> bool:
    """Let the C library keep freed memory; whether that could be set.

    XLA's CPU client allocates and frees a program's buffers at every call. By default glibc
    gives large blocks back to the system at once, and each call then pays a page fault per
    4 KiB. The process goes on holding what it needed at its peak. Other C libraries are left as
    they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
