"""The directory of a store: its files, what ``store.json`` says, and the lock of the writer."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import IO, Any

from bmojo.errors import UserError
from bmojo.storage.identity import Identity
from bmojo.storage.policy import Policy

__all__ = ["Description", "Layout", "NoStore", "WriterLock"]

FORMAT = 1
DTYPES = ("float32", "float16")


class NoStore(UserError):
    """There is no store where one was named."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What ``store.json`` says.

    Attributes:
      identity: whose memory it is.
      policy: what is forgotten.
      dtype: of keys and values on disk.
    """

    identity: Identity
    policy: Policy
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is unknown; choose one of {DTYPES}")

    def to_json(self) -> dict[str, Any]:
        """As it lies on disk."""
        return {
            "format": FORMAT,
            "dtype": self.dtype,
            "identity": self.identity.to_json(),
            "policy": dataclasses.asdict(self.policy),
        }


class Layout:
    """Where the files of a store are.

    Args:
      path: of the directory.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser().absolute()
        self.description = self.path / "store.json"
        self.rows = self.path / "entries.sqlite"
        self.index = self.path / "index"
        self.lock = self.path / "writer.lock"

    def read(self) -> Description:
        """What ``store.json`` says.

        Raises:
          NoStore: there is no such file.
          UserError: it cannot be read or is of another format.
        """
        try:
            there = json.loads(self.description.read_bytes())
            number = there["format"]
            if number == FORMAT:
                return Description(
                    Identity.from_json(there["identity"]),
                    Policy(**there["policy"]),
                    there["dtype"],
                )
        except (FileNotFoundError, NotADirectoryError):
            raise NoStore(
                f"{self.path}: no store is here (no store.json); name the directory of one, or "
                "let a model write one"
            ) from None
        except OSError as error:
            raise UserError(f"{self.description}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{self.description}: not readable as the description of a store; put it back"
            ) from None
        raise UserError(
            f"{self.description}: has format {number}, this version reads {FORMAT}; use the "
            "version that wrote it"
        )

    def write(self, description: Description) -> None:
        """Replace ``store.json``."""
        content = json.dumps(description.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.description, content.encode())

    def claim(self) -> None:
        """Make the directory, or see that it holds nothing but a store, perhaps half made.

        Raises:
          UserError: it holds other things or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise UserError(
                f"{self.path}: no store can be made here ({error.strerror}); choose another "
                "directory"
            ) from None
        own = {self.index.name, self.lock.name, *(self.rows.name + end for end in ENDS)}
        strangers = [name for name in names if name not in own]
        if strangers and not self.description.exists():
            raise UserError(
                f"{self.path}: holds {strangers[0]!r} and no store; choose a new directory"
            )

    def bytes(self) -> dict[str, int]:
        """Of each kind of file, in bytes on disk."""
        sizes = {"rows": 0, "index": 0}
        for end in ENDS:
            with contextlib.suppress(FileNotFoundError):
                sizes["rows"] += self.path.joinpath(self.rows.name + end).stat().st_size
        for path in self.index.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                sizes["index"] += path.stat().st_size
        return sizes


ENDS = ("", "-wal", "-shm", "-journal")


class WriterLock:
    """Keeps every other writer out of a store until it is released or its process ends.

    Raises:
      UserError: another process has it, or the directory cannot be written.
    """

    def __init__(self, layout: Layout):
        try:
            self._handle: IO[str] = open(layout.lock, "a+")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"{layout.path}: the store cannot be written ({error.strerror}); open it for "
                "reading, or see to the rights of the directory"
            ) from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.seek(0)
            holder = self._handle.read().strip() or "another process"
            self._handle.close()
            raise UserError(
                f"{layout.path}: {holder} writes to this store; wait until it has ended, or open "
                "the store for reading"
            ) from None
        self._handle.truncate(0)
        self._handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._handle.flush()

    def release(self) -> None:
        """Let others in."""
        self._handle.close()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step; a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
