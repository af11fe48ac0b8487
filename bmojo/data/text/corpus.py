"""Corpora: documents from text files, JSON lines, Parquet, Hugging Face, or Python itself.

A corpus is known by its parts before anything is read: a file, or a range of bytes, row
groups or rows. Parts are read by any process in any order; a part always holds the same
documents. What cannot be read comes out as a :class:`Corrupt` in its place.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import stat
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.validation import UserError

__all__ = ["SPLITS", "Corpus", "Corrupt", "Part", "open_corpus", "read", "texts"]

SPLITS = ("train", "validation", "test")
SUFFIXES = (".txt", ".jsonl", ".parquet")
RANGE = 4 * 2**20
"""Bytes of a JSON-lines file in one part; rows of a data set count for a thousand each."""

PACKED = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst")
"""Endings of files whose text has to be unpacked first."""

MEND = "mend it, or leave it out with --skip-corrupt"

STDLIB = "stdlib"
NOT_PROSE = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3",
    "pydoc_data", "site-packages", "test", "tests", "turtledemo",
}  # fmt: skip
"""Folders of the standard library that hold tests, tables and programs."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a corpus.

    Attributes:
      kind: 'text', 'jsonl', 'parquet' or 'hf'.
      path: of the file, or the name of the data set.
      name: the path relative to the source, for messages.
      start: first byte, row group or row.
      stop: the one after the last.
      size: bytes, about.
    """

    kind: str
    path: str
    name: str
    start: int
    stop: int
    size: int


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Everything that is to be read.

    Attributes:
      source: what the user called it.
      parts: by split, or under "" if documents are to be divided into splits.
      digest: changes whenever the list of files, their sizes or their times do.
    """

    source: str
    parts: dict[str, tuple[Part, ...]]
    digest: str


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """A document that cannot be read.

    Attributes:
      origin: file and line.
      problem: what is wrong with it.
    """

    origin: str
    problem: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.problem}"


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
    files = {
        split: _files(root / split, wanted) for split in (folders if by_folder else [""])
    }  # root / "" is root
    if not any(files.values()):
        raise UserError(
            f"{source}: no file ending in {', '.join(wanted)} in it; name the ending with --suffix"
        )
    facts = []
    for split, paths in files.items():
        for path in paths:
            found = path.stat()
            facts.append(
                [split, str(path.relative_to(root.parent)), found.st_size, found.st_mtime_ns]
            )
    parts = {
        split: tuple(
            part for path in paths for part in _parts_of_file(path, str(path.relative_to(root)))
        )
        if root.is_dir()
        else tuple(_parts_of_file(root, root.name))
        for split, paths in files.items()
    }
    return Corpus(source, parts, _digest(facts))


def read(part: Part, field: str = "text") -> Iterator[str | Corrupt]:
    """The documents of a part, in order.

    Args:
      part: of :func:`open_corpus`.
      field: of a JSON object, column of a table, where the text is.

    Raises:
      UserError: a package is missing or a table has no such column.
    """
    for document in _READERS[part.kind](part, field):
        if isinstance(document, Corrupt) or document:
            yield document


def texts(
    parts: Iterable[Part], field: str, skipped: list[str] | None, remedy: str = MEND
) -> Iterator[str]:
    """All documents of parts.

    Args:
      parts: of :func:`open_corpus`.
      field: as in :func:`read`.
      skipped: gets a line for each corrupt document; None: the first one is an error.
      remedy: what the error advises.

    Raises:
      UserError: a document is corrupt.
    """
    for part in parts:
        for document in read(part, field):
            if not isinstance(document, Corrupt):
                yield document
            elif skipped is None:
                raise UserError(f"{document}; {remedy}")
            else:
                skipped.append(str(document))


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
        yield from _row_groups(path, name, size)
    else:
        yield Part("text", str(path), name, 0, size, size)


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# Text


def _read_text(part: Part, field: str) -> Iterator[str | Corrupt]:
    try:
        content = Path(part.path).read_bytes()
    except OSError as error:
        yield Corrupt(part.name, f"cannot be read ({error.strerror})")
        return
    try:
        yield content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Corrupt(f"{part.name}:{line}", _not_utf8(error))


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}, {error.reason})"


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


# JSON lines


def _read_jsonl(part: Part, field: str) -> Iterator[str | Corrupt]:
    """The lines that begin in a range of bytes."""
    try:
        opened = open(part.path, "rb")  # noqa: SIM115
    except OSError as error:
        yield Corrupt(part.name, f"cannot be read ({error.strerror})")
        return
    with opened as file:
        file.seek(max(part.start - 1, 0))
        if part.start > 0:
            file.readline()  # the rest of a line that began before
        position = file.tell()
        while position < part.stop and (line := file.readline()):
            text = _text_of_line(line, field)
            if isinstance(text, Corrupt):
                text = Corrupt(f"{part.name}:{_line_number(part.path, position)}", text.problem)
            yield text
            position += len(line)


def _text_of_line(line: bytes, field: str) -> str | Corrupt:
    """The text of a JSON object, or what is wrong; an empty line has an empty text."""
    if not line.strip():
        return ""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Corrupt("", _not_utf8(error))
    except (json.JSONDecodeError, RecursionError) as error:
        return Corrupt("", f"not JSON ({error})")
    if not isinstance(value, dict):
        return Corrupt("", f"not a JSON object but a {type(value).__name__}")
    if field not in value:
        return Corrupt("", f"no field {field!r}; it has {', '.join(map(repr, value)) or 'none'}")
    return _checked(value[field], field)


def _checked(value: Any, field: str) -> str | Corrupt:
    if not isinstance(value, str):
        return Corrupt("", f"{field!r} is not a text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        return Corrupt("", f"{field!r} has half a surrogate pair")
    return value


def _line_number(path: str, position: int) -> int:
    lines = 1
    with open(path, "rb") as file:
        while position > 0 and (block := file.read(min(position, 2**20))):
            lines += block.count(b"\n")
            position -= len(block)
    return lines


# Parquet


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(
            "Parquet: the package pyarrow is not installed; pip install 'bmojo[text]'"
        ) from None


def _row_groups(path: Path, name: str, size: int) -> Iterator[Part]:
    package = _parquet()
    try:
        groups = package.ParquetFile(path).num_row_groups
    except (OSError, ValueError):
        groups = 1  # reading it will tell
    for group in range(groups):
        yield Part("parquet", str(path), name, group, group + 1, size // groups)


def _read_parquet(part: Part, field: str) -> Iterator[str | Corrupt]:
    package = _parquet()
    try:
        file = package.ParquetFile(part.path)
    except (OSError, ValueError) as error:
        yield Corrupt(part.name, f"not Parquet ({' '.join(str(error).split())})")
        return
    with file:
        _need_column(part.name, field, file.schema_arrow.names)
        row = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
        try:
            for batch in file.iter_batches(1000, row_groups=[part.start], columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    text = _checked(value, field)
                    if isinstance(text, Corrupt):
                        text = Corrupt(f"{part.name}:{row}", text.problem)
                    yield text
        except (OSError, ValueError) as error:
            problem = f"the rest of its rows cannot be read ({' '.join(str(error).split())})"
            yield Corrupt(f"{part.name}:{row + 1}", problem)


def _need_column(name: str, field: str, columns: Sequence[str]) -> None:
    if field not in columns:
        raise UserError(
            f"{name}: no column {field!r}; choose one of {', '.join(columns)} with --field"
        )


# Hugging Face


def _hub(source: str, by_folder: bool | None) -> Corpus:
    loaded = _load_hub(source)
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    found = [name for name in SPLITS if name in splits]
    if "" not in splits and not found:
        raise UserError(
            f"{source}: has none of the splits {', '.join(SPLITS)}; "
            f"name one of {', '.join(splits)}: hf:NAME:CONFIG:SPLIT"
        )
    if by_folder is None:
        by_folder = "train" in found and len(found) > 1
    if by_folder:
        chosen = {name: splits[name] for name in found}
    else:
        name = "" if "" in splits else found[0]
        chosen = {"": splits[name]}
        if name:
            source = ":".join([*source.split(":"), ""][:3]) + f":{name}"
    parts = {}
    for split, rows in chosen.items():
        origin = source if split == "" else ":".join([*source.split(":"), ""][:3]) + f":{split}"
        ranges = [(at, min(at + 4096, len(rows))) for at in range(0, len(rows), 4096)]
        parts[split] = tuple(
            Part("hf", origin, origin, start, stop, 1000 * (stop - start)) for start, stop in ranges
        )
    return Corpus(source, parts, _digest([source, {k: len(v) for k, v in chosen.items()}]))


def _load_hub(source: str) -> Any:
    """A data set of the Hugging Face hub: all its splits in a dict, or the one named."""
    try:
        package = importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            f"{source}: the package datasets is not installed; pip install 'bmojo[hf]'"
        ) from None
    name, config, split = [*source.split(":")[1:], "", ""][:3]
    if not name:
        raise UserError(f"{source}: names no data set; write hf:NAME, hf:NAME:CONFIG:SPLIT")
    try:
        return package.load_dataset(name, config or None, split=split or None)
    except Exception as error:  # anything between a lost network and a name misspelt
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source}: the data set cannot be loaded ({type(error).__name__}: {line}); check its "
            "name and the connection"
        ) from None


def _read_hub(part: Part, field: str) -> Iterator[str | Corrupt]:
    rows = _load_hub(part.path)
    _need_column(part.name, field, rows.column_names)
    for row in range(part.start, part.stop):
        text = _checked(rows[row][field], field)
        yield Corrupt(f"{part.name}:{row + 1}", text.problem) if isinstance(text, Corrupt) else text


_READERS: dict[str, Callable[[Part, str], Iterator[str | Corrupt]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "hf": _read_hub,
}
