"""`bmojo` as another `bmojo` starts it: `python -m bmojo.cli.child [--cores 0,1] ARGUMENTS`.

It is the program `bmojo` with these arguments, kept to some cores from its first thread on,
and told to stop, as by SIGTERM, if the process that started it is killed.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["PROGRAM", "be_bmojo", "main"]

PROGRAM = (sys.executable, "-m", "bmojo.cli.child")
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Run ``bmojo`` with these arguments; exits as it does."""
    words = list(arguments)
    if words[:1] == ["--cores"]:
        os.sched_setaffinity(0, {int(core) for core in words[1].split(",")})
        words = words[2:]
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            sys.exit(128 + signal.SIGTERM)
    be_bmojo(words)


def be_bmojo(arguments: Sequence[str]) -> None:
    """Be the program ``bmojo`` with these arguments; exits as it does.

    The command is what runs record as theirs.
    """
    sys.argv = ["bmojo", *arguments]
    from bmojo.cli import main as bmojo

    bmojo()


if __name__ == "__main__":
    main(sys.argv[1:])
