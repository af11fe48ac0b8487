"""`python -m bmojo.cli [--child] [--cores 0,1] ARGUMENTS`: the program `bmojo`.

``--cores`` keeps it to some cores from its first thread on. A ``--child`` is asked to stop, as by
SIGTERM, when the process that started it dies.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Run ``bmojo`` with these arguments; exits as it does."""
    words = list(arguments)
    if words[:1] == ["--child"]:
        words = words[1:]
        stop_with_parent()
    if words[:1] == ["--cores"]:
        os.sched_setaffinity(0, {int(core) for core in words[1].split(",")})
        words = words[2:]
    sys.argv = ["bmojo", *words]  # runs record it as their command
    run()


def stop_with_parent() -> None:
    """Get SIGTERM when the parent process dies; exits if it is dead already."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)


def run() -> None:
    """Run ``bmojo`` with the arguments of this process."""
    from bmojo.cli import main as bmojo

    bmojo()


if __name__ == "__main__":
    main(sys.argv[1:])
