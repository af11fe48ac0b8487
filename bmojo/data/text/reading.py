"""Documents of a part of a corpus, in order, with an unreadable one reported in its place."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.errors import UserError

__all__ = ["Corrupt", "Part", "load_hub", "read", "row_groups", "texts"]

MEND = "mend it, or leave it out with --skip-corrupt"


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
class Corrupt:
    """A document that cannot be read.

    Attributes:
      origin: file and line.
      problem: the reason.
    """

    origin: str
    problem: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.problem}"


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
      remedy: the advice of the error.

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


# Text


class _Unreadable(Exception):
    """The problem of one document."""


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
            try:
                yield _text_of_line(line, field)
            except _Unreadable as problem:
                yield Corrupt(f"{part.name}:{_line_number(part.path, position)}", str(problem))
            position += len(line)


def _text_of_line(line: bytes, field: str) -> str:
    """The text of a JSON object; an empty line has an empty text."""
    if not line.strip():
        return ""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _Unreadable(_not_utf8(error)) from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Unreadable(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _Unreadable(f"not a JSON object but a {type(value).__name__}")
    if field not in value:
        raise _Unreadable(f"no field {field!r}; it has {', '.join(map(repr, value)) or 'none'}")
    return _checked(value[field], field)


def _checked(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _Unreadable(f"{field!r} is not a text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unreadable(f"{field!r} has half a surrogate pair") from None
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


# Parquet


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(
            "Parquet: the package pyarrow is not installed; pip install 'bmojo[text]'"
        ) from None


def row_groups(path: Path, name: str, size: int) -> Iterator[Part]:
    """A part for each row group of a Parquet file."""
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
                yield from _cells(batch.column(0).to_pylist(), field, part.name, row + 1)
                row += len(batch)
        except (OSError, ValueError) as error:
            problem = f"the rest of its rows cannot be read ({' '.join(str(error).split())})"
            yield Corrupt(f"{part.name}:{row + 1}", problem)


def _need_column(name: str, field: str, columns: Sequence[str]) -> None:
    if field not in columns:
        raise UserError(
            f"{name}: no column {field!r}; choose one of {', '.join(columns)} with --field"
        )


# Hugging Face


def load_hub(source: str) -> Any:
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
    rows = load_hub(part.path)
    _need_column(part.name, field, rows.column_names)
    values = (rows[row][field] for row in range(part.start, part.stop))
    yield from _cells(values, field, part.name, part.start + 1)


_READERS: dict[str, Callable[[Part, str], Iterator[str | Corrupt]]] = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "hf": _read_hub,
}
