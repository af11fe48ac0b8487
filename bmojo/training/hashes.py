"""Checkpoint integrity: size and SHA-256 of every file, kept in ``hashes.json``.

Damage by the file system or by a copy is found before anything is read into a model.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bmojo.files import sha256, write_atomically

NAME = "hashes.json"
READERS = 4
SHOWN = 3

Progress = Callable[[int], None]


def write(directory: Path) -> None:
    """Read all files of a checkpoint and write their sizes and hashes."""
    hashed = _hashed(directory, sorted(_files(directory)), lambda count: None)
    found = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": digest}
        for name, digest in hashed.items()
    }
    write_atomically(directory / NAME, _text(found))


def changes(
    directory: Path,
    progress: Progress = lambda count: None,
    within: Iterable[str] | None = None,
    content: bool = True,
) -> list[str] | None:
    """The differences between the files of a checkpoint and their hashes.

    Args:
      directory: of the checkpoint.
      progress: called with the bytes read since its last call, from any thread, one at a time.
      within: names of the checkpoint's folders to look at; None: all files.
      content: whether to read the files, or only look at their names and sizes.

    Returns:
      A phrase for each file that is missing, of another size or content, or of no checkpoint,
      in order of their names; none if all is well. None if there are no hashes.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf8")
        known = json.loads(text)["files"]
        # Its own hash, and blanks that JSON ignores, must be as they were written too.
        whole = text == _text(known)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        return [f"{NAME}: is not as it was written"]
    there = _files(directory)
    if within is not None:
        folders = set(within)
        known = {n: facts for n, facts in known.items() if n.split("/")[0] in folders}
        there = {name for name in there if name.split("/")[0] in folders}
    found = {name: "is missing" for name in known.keys() - there}
    found |= {name: "is not one of the checkpoint's files" for name in there - known.keys()}
    for name in known.keys() & there:
        bytes_now, bytes_then = (directory / name).stat().st_size, known[name]["bytes"]
        if bytes_now != bytes_then:
            found[name] = f"has {bytes_now:,} bytes, {bytes_then:,} were written"
    same = sorted((known.keys() & there) - found.keys())
    for name, digest in _hashed(directory, same if content else [], progress).items():
        if digest != known[name]["sha256"]:
            found[name] = "has changed since it was written (SHA-256)"
    return [f"{name}: {found[name]}" for name in sorted(found)]


def shown(problems: list[str]) -> str:
    """The first few of :func:`changes` in one line."""
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def size(directory: Path) -> int:
    """Bytes of all files of a checkpoint."""
    return sum((directory / name).stat().st_size for name in _files(directory))


def _files(directory: Path) -> set[str]:
    """Names of the files below a directory, but for the hashes."""
    found = set()
    for folder, _, names in os.walk(directory):
        found |= {(Path(folder) / name).relative_to(directory).as_posix() for name in names}
    return found - {NAME, f".{NAME}.tmp"}


def _hashed(directory: Path, names: Iterable[str], progress: Progress) -> dict[str, str]:
    lock = threading.Lock()

    def counted(count: int) -> None:
        with lock:
            progress(count)

    with ThreadPoolExecutor(READERS) as pool:
        return dict(pool.map(lambda name: (name, sha256(directory / name, counted)), names))


def _text(files: dict[str, dict[str, object]]) -> str:
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": own}, indent=1, sort_keys=True) + "\n"
