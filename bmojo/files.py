"""Files: atomic writes, exclusive locks between processes, and SHA-256."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

BLOCK = 2**20
"""Bytes that are hashed at once."""


def read_file(path: Path) -> bytes:
    """The content of a file; OSError for a device, which may have no end."""
    if stat.S_ISCHR(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is a device", str(path))
    return path.read_bytes()


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which replaces it when the block ends without an error.

    A reader sees the old file or the new one, also after a power failure: file and directory
    are synchronized.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step; text is written as UTF-8."""
    with atomically(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[IO[str]]:
    """Hold an exclusive lock on a file, which is made if it is not there.

    The lock ends with the block or with the process; with ``wait``, one waits for its holder. A
    lock file that the holder removed meanwhile is made anew.

    Yields:
      The open file, which holds what its last writer wrote.

    Raises:
      BlockingIOError: another process has it; ``filename`` is the lock file.
    """
    while True:
        with open(path, "a+", encoding="utf8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, error.strerror, str(path)) from None
            if os.fstat(handle.fileno()).st_nlink:
                yield handle
                return


def sha256(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file in hexadecimal digits; ``progress`` is called with bytes read."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
