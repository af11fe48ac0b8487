"""Corpora: documents from text files, JSON lines, Parquet, Hugging Face, or Python itself.

A corpus is known by its parts before anything is read: a file, or a range of bytes, row
groups or rows. Parts are read by any process in any order; a part always holds the same
documents. An unreadable document is reported as a :class:`Corrupt` in its place.
"""

import dataclasses
import hashlib
import json
import os
import platform
import stat
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.data.text.reading import Corrupt, Part, load_hub, read, row_groups, texts
from bmojo.errors import UserError

__all__ = ["SPLITS", "Corpus", "Corrupt", "Part", "open_corpus", "read", "texts"]

SPLITS = ("train", "validation", "test")
SUFFIXES = (".txt", ".jsonl", ".parquet")
RANGE = 4 * 2**20
"""Bytes of a JSON-lines file in one part; rows of a data set count for a thousand each."""

PACKED = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst")
"""Endings of files whose text has to be unpacked first."""

STDLIB = "stdlib"
NOT_PROSE = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3",
    "pydoc_data", "site-packages", "test", "tests", "turtledemo",
}  # fmt: skip
"""Folders of the standard library that hold tests, tables and programs."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Everything that is to be read.

    Attributes:
      source: its name, as the user gave it.
      parts: by split, or under "" if documents are to be divided into splits.
      digest: changes whenever the list of files, their sizes or their times do.
    """

    source: str
    parts: dict[str, tuple[Part, ...]]
    digest: str


def open_corpus(
    source: str, suffixes: Sequence[str] | None = None, by_folder: bool | None = None
) -> Corpus:
    """Find the parts of a source.

    Args:
      source: a file, a folder, 'stdlib', or 'hf:NAME[:CONFIG][:SPLIT]'.
      suffixes: of the files to read in a folder; None: .txt, .jsonl, .parquet.
      by_folder: whether subfolders (of a data set: splits) called train, validation and test
        are the splits; None: if there is a ``train`` and another one.

    Raises:
      UserError: there is no such source, or nothing in it to read.
    """
    if source == STDLIB:
        return _standard_library()
    if source.startswith("hf:"):
        return _hub(source, by_folder)
    root = Path(source).expanduser()
    if not root.exists():
        raise UserError(
            f"{source}: no such file or folder; give one, or 'stdlib', or hf:NAME for a data set "
            "of the Hugging Face hub"
        )
    if root.is_file() and root.suffix in PACKED:
        raise UserError(
            f"{source}: {root.suffix} files are not read; unpack it to {', '.join(SUFFIXES)}"
        )
    wanted = tuple(suffixes or SUFFIXES)
    folders = [name for name in SPLITS if (root / name).is_dir()]
    if by_folder is None:
        by_folder = "train" in folders and len(folders) > 1
    if by_folder and "train" not in folders:
        raise UserError(f"{source}: has no folder 'train' to split by; make one, or give fractions")
    files = {split: _files(root / split, wanted) for split in (folders if by_folder else [""])}
    if not any(files.values()):
        raise UserError(
            f"{source}: no file ending in {', '.join(wanted)} in it; name the ending with --suffix"
        )
    base = root if root.is_dir() else root.parent
    facts = []
    parts = {}
    for split, paths in files.items():
        for path in paths:
            found = path.stat()
            name = str(path.relative_to(root.parent))
            facts.append([split, name, found.st_size, found.st_mtime_ns])
        parts[split] = tuple(
            part for path in paths for part in _parts_of_file(path, str(path.relative_to(base)))
        )
    return Corpus(source, parts, _digest(facts))


def _files(root: Path, suffixes: tuple[str, ...], left_out: Collection[str] = ()) -> list[Path]:
    """Files below a folder in a fixed order, without hidden ones; or the file itself."""
    if root.is_file():
        return [root]
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [n for n in subfolders if not n.startswith(".") and n not in left_out]
        found += [
            Path(folder, name)
            for name in names
            if name.endswith(suffixes) and not name.startswith(".")
        ]
    return sorted(filter(_is_regular, found), key=lambda path: path.relative_to(root).parts)


def _is_regular(path: Path) -> bool:
    """Whether a path leads to a file, and not to a pipe, which could be waited for without end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); mend it, or take it away"
        ) from None


def _parts_of_file(path: Path, name: str) -> Iterator[Part]:
    size = path.stat().st_size
    if path.suffix == ".jsonl":
        for start in range(0, size, RANGE):
            stop = min(start + RANGE, size)
            yield Part("jsonl", str(path), name, start, stop, stop - start)
    elif path.suffix == ".parquet":
        yield from row_groups(path, name, size)
    else:
        yield Part("text", str(path), name, 0, size, size)


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _standard_library() -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in _files(root, (".py",), NOT_PROSE)
        if not path.parent.name.startswith("config-")
    ]
    parts = tuple(
        part for path in files for part in _parts_of_file(path, str(path.relative_to(root)))
    )
    facts = [platform.python_version(), [[part.name, part.size] for part in parts]]
    return Corpus(STDLIB, {"": parts}, _digest(facts))


def _hub(source: str, by_folder: bool | None) -> Corpus:
    loaded = load_hub(source)
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    found = [name for name in SPLITS if name in splits]
    if "" not in splits and not found:
        raise UserError(
            f"{source}: has none of the splits {', '.join(SPLITS)}; "
            f"name one of {', '.join(splits)}: hf:NAME:CONFIG:SPLIT"
        )
    if by_folder is None:
        by_folder = "train" in found and len(found) > 1
    prefix = ":".join([*source.split(":"), ""][:3])  # hf:NAME:CONFIG
    if by_folder:
        chosen = {name: splits[name] for name in found}
    elif "" in splits:
        chosen = splits
    else:
        chosen, source = {"": splits[found[0]]}, f"{prefix}:{found[0]}"
    parts = {}
    for split, rows in chosen.items():
        origin = f"{prefix}:{split}" if split else source
        ranges = [(at, min(at + 4096, len(rows))) for at in range(0, len(rows), 4096)]
        parts[split] = tuple(
            Part("hf", origin, origin, start, stop, 1000 * (stop - start)) for start, stop in ranges
        )
    return Corpus(source, parts, _digest([source, {k: len(v) for k, v in chosen.items()}]))
