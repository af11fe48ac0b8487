"""A prepared directory: the layout of tokens on disk, and random access to them.

    plan.json       the request; another one is refused
    manifest.json   counts, the tokenizer, and size and SHA-256 of every file
    SPLIT-00000.array_record    records of 4096 tokens (uint16 or uint32), the last one shorter
    SPLIT-00000.documents.npy   where each document of the shard starts, in tokens (int64)
    tokenizer.*     a copy of the tokenizer's file, if it has one
    skipped.txt     documents left out, if any

The stream of a split is that of its shards joined. In it a document is its end-of-document
token followed by its text.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from bmojo.data.text.tokenizers import Tokenizer, pieces, tokenizer
from bmojo.errors import UserError
from bmojo.files import atomically, sha256

__all__ = ["Documents", "Prepared", "ShardWriter", "Stream", "open_prepared"]

FORMAT = 1
BLOCK = 4096
"""Tokens of a record."""

MANIFEST = "manifest.json"
PLAN = "plan.json"


def json_bytes(value: Any) -> bytes:
    """JSON as it lies on disk."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def file_facts(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file."""
    return {"file": path.name, "size": path.stat().st_size, "sha256": sha256(path)}


class ShardWriter:
    """Writes a shard, ``stem`` and an ending, that is there once :meth:`close` has returned."""

    def __init__(self, stem: Path, coder: Tokenizer):
        self._tokens_path = stem.with_name(stem.name + ".array_record")
        self._index_path = stem.with_name(stem.name + ".documents.npy")
        self._coder = coder
        self._files = contextlib.ExitStack()
        temporary = self._files.enter_context(atomically(self._tokens_path))
        self._writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        self._pending = np.zeros(0, token_dtype(coder.vocab_size))
        self._starts: list[int] = []
        self._tokens = self._bytes = 0

    def add(self, text: str, start: int = 0, stop: int | None = None) -> None:
        """Write text[start:stop] as a document."""
        self._starts.append(self._tokens)
        self._write(np.array([self._coder.eos]))
        for piece in pieces(self._coder, text, start, stop):
            self._bytes += len(piece.encode())
            self._write(self._coder.encode(piece))

    def _write(self, ids: np.ndarray) -> None:
        self._tokens += len(ids)
        joined = np.concatenate([self._pending, ids.astype(self._pending.dtype)])
        whole = len(joined) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._writer.write(joined[start : start + BLOCK].tobytes())
        self._pending = joined[whole:]

    def close(self) -> dict[str, Any]:
        """Put the shard into its place; its entry in the manifest."""
        if len(self._pending):
            self._writer.write(self._pending.tobytes())
        self._writer.close()
        self._files.close()
        with atomically(self._index_path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.array(self._starts, np.int64), allow_pickle=False)
        counts = {"tokens": self._tokens, "documents": len(self._starts), "bytes": self._bytes}
        return {**counts, **file_facts(self._tokens_path), "index": file_facts(self._index_path)}


def token_dtype(vocab_size: int) -> str:
    """How ids are stored."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared directory and the content of its ``manifest.json``."""

    path: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, and so of all there is."""
        return self.manifest["sha256"]

    @property
    def vocab_size(self) -> int:
        """Ids are below this number."""
        return self.manifest["tokenizer"]["vocab_size"]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the directory; a UserError if it is not that of the manifest."""
        facts = self.manifest["tokenizer"]
        kind, colon, name = facts["spec"].partition(":")
        made = tokenizer(f"{kind}:{self.path / name}" if colon else kind)
        if made.fingerprint != facts["fingerprint"]:
            raise UserError(
                f"{self.path / (name or MANIFEST)}: not the tokenizer that the text was prepared "
                f"with; put the old file back, or {again(self.path)}"
            )
        return made

    def facts(self, split: str) -> dict[str, Any]:
        """The manifest's entry of a split; a UserError if there is nothing in it."""
        splits = self.manifest["splits"]
        if split not in splits:
            raise UserError(f"split: {split!r} is unknown; choose one of {', '.join(splits)}")
        if not splits[split]["tokens"]:
            held_out = next((n for n in splits if n != "train" and splits[n]["tokens"]), None)
            raise UserError(
                f"{self.path}: its split {split!r} is empty; "
                + (f"set Text.held_out = {held_out!r}, or " if held_out else "")
                + f"make one: bmojo data prepare SOURCE --out NEW --{split} 0.05"
            )
        return splits[split]

    def stream(self, split: str) -> "Stream":
        """All tokens of a split; a UserError if there are none."""
        return Stream(self.path, self.facts(split), self.manifest["tokenizer"])

    def check(self, whole: bool = False) -> None:
        """A UserError names the first file that has not its size or, if ``whole``, SHA-256."""
        shards = [s for split in self.manifest["splits"].values() for s in split["shards"]]
        files = [facts for shard in shards for facts in (shard, shard["index"])]
        for facts in files:
            path = self.path / facts["file"]
            if not path.is_file():
                raise UserError(f"{path}: the shard is missing; put it back, or {again(self.path)}")
            size = path.stat().st_size
            if size != facts["size"]:
                raise _damaged(path, f"{size} bytes instead of {facts['size']}")
            if whole and sha256(path) != facts["sha256"]:
                raise _damaged(path, "its SHA-256 is another")
        if whole:
            self.tokenizer()


def open_prepared(path: str | Path) -> Prepared:
    """Read and check the manifest of a prepared directory.

    Raises:
      UserError: there is none, preparation is not finished, or it was changed.
    """
    path = Path(path).expanduser()
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        digest = manifest["sha256"]
    except FileNotFoundError:
        begun = (path / PLAN).exists()
        problem = "its preparation was interrupted" if begun else "no prepared text is here"
        remedy = "the same command goes on" if begun else f"bmojo data prepare SOURCE --out {path}"
        raise UserError(f"{path}: {problem}; {remedy}") from None
    except NotADirectoryError:
        raise UserError(f"{path}: is a file; name the directory of prepared text") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        message = f"{file}: not readable as a manifest; put it back, or {again(path)}"
        raise UserError(message) from None
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{file}: has format {manifest.get('format')}, this version reads {FORMAT}; use the "
            f"version that wrote it, or {again(path)}"
        )
    if digest != manifest_hash(manifest):
        raise UserError(f"{file}: was changed by hand; put it back, or {again(path)}")
    return Prepared(path, manifest)


def again(path: Path) -> str:
    """The remedy of every damage: preparing alone finds the damaged files and stops."""
    return f"delete {path} and prepare the text again"


def _damaged(path: Path, problem: Any) -> UserError:
    return UserError(
        f"{path}: not what the manifest says ({problem}); put the old file back, or "
        f"{again(path.parent)}"
    )


def manifest_hash(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own entry ``sha256``."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json_bytes(rest)).hexdigest()


class Stream:
    """The tokens of a split and one more, the end of the last document, read where they lie."""

    def __init__(self, path: Path, facts: dict[str, Any], coder: dict[str, Any]):
        self._path = path
        self._shards = facts["shards"]
        self._ends = list(itertools.accumulate(shard["tokens"] for shard in self._shards))
        self._dtype = np.dtype(token_dtype(coder["vocab_size"]))
        self._readers: dict[int, Any] = {}
        self.eos: int = coder["eos"]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start .. stop - 1, int32; ``stop`` is at most the length + 1."""
        if not 0 <= start <= stop <= len(self) + 1:
            raise IndexError(f"tokens {start} .. {stop - 1} are not in 0 .. {len(self)}")
        pieces = [np.zeros(0, np.int32)]
        shard = bisect.bisect_right(self._ends, start)
        position = start
        while position < min(stop, len(self)):
            first = self._ends[shard - 1] if shard else 0
            end = min(stop, self._ends[shard])
            pieces.append(self._read_shard(shard, position - first, end - first))
            position, shard = end, shard + 1
        if stop == len(self) + 1 and start < stop:
            pieces.append(np.array([self.eos], np.int32))
        return np.concatenate(pieces)

    def _read_shard(self, shard: int, start: int, stop: int) -> np.ndarray:
        first, last = start // BLOCK, (stop - 1) // BLOCK
        path = self._path / self._shards[shard]["file"]
        try:
            if shard not in self._readers:
                self._readers[shard] = array_record_module.ArrayRecordReader(str(path))
            records = self._readers[shard].read(list(range(first, last + 1)))
        except (RuntimeError, IndexError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise _damaged(path, line) from None
        tokens = np.frombuffer(b"".join(records), self._dtype).astype(np.int32)
        return tokens[start - first * BLOCK : stop - first * BLOCK]

    def starts(self) -> np.ndarray:
        """Where each document starts, int64, rising."""
        parts = []
        for shard, end in zip(self._shards, self._ends, strict=True):
            path = self._path / shard["index"]["file"]
            try:
                content = path.read_bytes()
            except OSError as error:
                raise _damaged(path, error.strerror) from None
            if hashlib.sha256(content).hexdigest() != shard["index"]["sha256"]:
                raise _damaged(path, "its SHA-256 is another")
            parts.append(np.load(io.BytesIO(content)) + (end - shard["tokens"]))
        return np.concatenate(parts)


class Documents(Sequence[np.ndarray]):
    """Documents of a stream, ``[eos, n tokens, eos]``, int32, each read when asked for.

    The inputs ``d[:-1]`` and the targets ``d[1:]`` predict every token and the end.
    """

    def __init__(self, stream: Stream):
        self._stream = stream
        self._starts = np.append(stream.starts(), len(stream))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self._stream.read(int(self._starts[number]), int(self._starts[number + 1]) + 1)
