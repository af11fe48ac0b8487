"""Corpora: documents from text files, JSON lines, Parquet, Hugging Face, or Python itself.

A corpus is known by its parts before anything is read. Any process reads them in any order; a
part always holds the same documents, with a :class:`Corrupt` in the place of an unreadable one.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.data.text.tokenizers import optional_package
from bmojo.errors import UserError

__all__ = ["SPLITS", "Corpus", "Corrupt", "Part", "open_corpus", "read", "texts"]

SPLITS = ("train", "validation", "test")
SUFFIXES = (".txt", ".jsonl", ".parquet")
RANGE = 4 * 2**20
BATCH_BYTES = 16 * 2**20  # of rows of a table that are read at once
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
class Part:
    """A piece of a corpus: bytes, row groups or rows start .. stop - 1 of a file or data set.

    ``kind`` is 'text', 'jsonl', 'parquet' or 'hf'; messages use ``name``, the path relative to
    the source; ``size`` is bytes, about.
    """

    kind: str
    path: str
    name: str
    start: int
    stop: int
    size: int


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """A document that cannot be read: its file and line, and the reason."""

    origin: str
    problem: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.problem}"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Parts by split, or under "" if documents are to be divided into splits.

    ``digest`` changes whenever the list of files, their sizes or their times do.
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
    if root.is_file() and root.suffix.lower() in PACKED:
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
    facts = [
        [split, str(path.relative_to(root.parent)), *_size_and_time(path)]
        for split, paths in files.items()
        for path in paths
    ]
    parts = {split: _parts(paths, base) for split, paths in files.items()}
    return Corpus(source, parts, _digest(facts))


def _files(root: Path, suffixes: tuple[str, ...], left_out: Collection[str] = ()) -> list[Path]:
    """Files below a folder in a fixed order, without hidden ones; or the file itself."""
    if root.is_file():
        return [root]

    def refuse(error: OSError) -> None:
        remedy = "mend it, or take it away"
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); {remedy}")

    found, endings = [], tuple(suffix.lower() for suffix in suffixes)
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [n for n in subfolders if not n.startswith(".") and n not in left_out]
        wanted = [n for n in names if n.lower().endswith(endings) and not n.startswith(".")]
        found += [Path(folder, name) for name in wanted]
    # A pipe could be waited for without end; a link to nothing is reported where it is read.
    found = [path for path in found if path.is_file() or not path.exists()]
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _parts(paths: Iterable[Path], base: Path) -> tuple[Part, ...]:
    return tuple(
        part for path in paths for part in _parts_of(path, printable(path.relative_to(base)))
    )


def printable(path: str | Path) -> str:
    """A path as UTF-8 can hold it."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _parts_of(path: Path, name: str) -> Iterator[Part]:
    size, suffix = _size_and_time(path)[0], path.suffix.lower()
    if size < 0:
        yield Part("text", str(path), name, 0, 0, 0)
    elif suffix == ".jsonl":
        for start in range(0, size, RANGE):
            stop = min(start + RANGE, size)
            yield Part("jsonl", str(path), name, start, stop, stop - start)
    elif suffix == ".parquet":
        package = optional_package("pyarrow.parquet", "Parquet")
        try:
            with open(path, "rb") as file:  # by its number, as its name need not be UTF-8
                groups = package.ParquetFile(file).num_row_groups
        except (OSError, ValueError):
            groups = 1  # reading it will tell
        for group in range(groups):
            yield Part("parquet", str(path), name, group, group + 1, size // groups)
    else:
        yield Part("text", str(path), name, 0, size, size)


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _standard_library() -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = _files(root, (".py",), NOT_PROSE)
    parts = _parts((path for path in files if not path.parent.name.startswith("config-")), root)
    facts = [platform.python_version(), [[part.name, part.size] for part in parts]]
    return Corpus(STDLIB, {"": parts}, _digest(facts))


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


def read(part: Part, field: str = "text") -> Iterator[str | Corrupt]:
    """The documents of a part, in order, without empty ones.

    The text is in the ``field`` of a JSON object, the column of a table. A missing package or
    column is a UserError.
    """
    return (d for d in _READERS[part.kind](part, field) if isinstance(d, Corrupt) or d)


def texts(
    parts: Iterable[Part],
    field: str,
    skipped: list[str] | None,
    remedy: str = "mend it, or leave it out with bmojo data prepare --skip-corrupt",
) -> Iterator[str]:
    """All documents of parts, as :func:`read` gives them.

    ``skipped`` gets a line for each corrupt document; without it the first one is a UserError
    that gives the ``remedy``.
    """
    for part in parts:
        for document in read(part, field):
            if not isinstance(document, Corrupt):
                yield document
            elif skipped is None:
                raise UserError(f"{document}; {remedy}")
            else:
                skipped.append(str(document))


class _Unreadable(Exception):
    """The problem of one document."""


def _read_text(part: Part, field: str) -> Iterator[str | Corrupt]:
    try:
        yield Path(part.path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        yield Corrupt(part.name, f"cannot be read ({error.strerror})")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        yield Corrupt(f"{part.name}:{line}", _not_utf8(error))


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}, {error.reason})"


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
            start, position = position, position + len(line)
            try:
                text = line.decode("utf-8-sig")
                del line  # one copy at a time of what may be large
                yield _text_of_line(text, field)
            except UnicodeDecodeError as error:
                yield Corrupt(f"{part.name}:{_line_number(part.path, start)}", _not_utf8(error))
            except _Unreadable as problem:
                yield Corrupt(f"{part.name}:{_line_number(part.path, start)}", str(problem))


def _text_of_line(line: str, field: str) -> str:
    """The text of a JSON object; an empty line has an empty text."""
    if not line or line.isspace():
        return ""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is the former
        raise _Unreadable(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _Unreadable(f"not a JSON object but a {type(value).__name__}")
    if field not in value:
        raise _Unreadable(f"no field {field!r}; it has {', '.join(map(repr, value)) or 'none'}")
    return _checked(value[field], field)


def _checked(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _Unreadable(f"{field!r} is not a text but {type(value).__name__}")
    if re.search("[\ud800-\udfff]", value):
        raise _Unreadable(f"{field!r} has half a surrogate pair")
    return value


def _cells(values: Iterable[Any], field: str, name: str, row: int) -> Iterator[str | Corrupt]:
    """Texts of a column, rows numbered from ``row`` on."""
    for number, value in enumerate(values, row):
        try:
            yield _checked(value, field)
        except _Unreadable as problem:
            yield Corrupt(f"{name}:{number}", str(problem))


def _line_number(path: str, position: int) -> int:
    lines = 1
    with open(path, "rb") as file:
        while position > 0 and (block := file.read(min(position, 2**20))):
            lines += block.count(b"\n")
            position -= len(block)
    return lines


def _read_parquet(part: Part, field: str) -> Iterator[str | Corrupt]:
    package = optional_package("pyarrow.parquet", "Parquet")
    with contextlib.ExitStack() as held:
        try:
            opened = held.enter_context(open(part.path, "rb"))
            file = held.enter_context(package.ParquetFile(opened, pre_buffer=False))
        except (OSError, ValueError) as error:
            yield Corrupt(part.name, f"not Parquet ({' '.join(str(error).split())})")
            return
        _need_column(part.name, field, file.schema_arrow.names)
        row = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
        try:
            for values in _rows(file, part.start, field):
                yield from _cells(values, field, part.name, row + 1)
                row += len(values)
        except (OSError, ValueError) as error:
            problem = f"the rest of its rows cannot be read ({' '.join(str(error).split())})"
            yield Corrupt(f"{part.name}:{row + 1}", problem)


def _rows(file: Any, group: int, field: str) -> Iterator[list[Any]]:
    """Values of a column, some at a time.

    They are given once the next ones are read, so that at the end nothing but they are in memory.
    """
    facts = file.metadata.row_group(group)
    count = min(max(BATCH_BYTES * facts.num_rows // max(facts.total_byte_size, 1), 1), 1000)
    values: list[Any] = []
    for batch in file.iter_batches(count, row_groups=[group], columns=[field]):
        if values:
            yield values
        values = batch.column(0).to_pylist()
        del batch
    import pyarrow  # type: ignore[import-untyped]

    pyarrow.default_memory_pool().release_unused()
    yield values


def _need_column(name: str, field: str, columns: Sequence[str]) -> None:
    if field not in columns:
        raise UserError(
            f"{name}: no column {field!r}; choose one of {', '.join(columns)} with --field"
        )


def _load_hub(source: str) -> Any:
    """A data set of the Hugging Face hub: all its splits in a dict, or the one named."""
    package = optional_package("datasets", source, "hf")
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
    values = (rows[row][field] for row in range(part.start, part.stop))
    yield from _cells(values, field, part.name, part.start + 1)


_READERS: dict[str, Callable[[Part, str], Iterator[str | Corrupt]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "hf": _read_hub,
}
