"""The matched store: entries of a read-out on disk, found by the n-gram they end in.

Entry i is the key of a token, the token that followed, and hashes of the n-grams that end there.
It points to the previous entry of its own n-gram, and a table has the newest of each, so that the
``cap`` newest are found by following pointers (as LZ77's hash chains): exact, O(cap), no search.
One stream writes its documents one after the other; n-grams do not span documents, matches do.

    matched.json   format, identity of the model, and the folder that counts
    000001/        its columns (:mod:`bmojo.storage.columns`)
    writer.lock    held by the process that writes

The table is made from the column of n-grams when a store is opened. Forgetting writes the documents
that stay to a new folder, linked anew, which one line of ``matched.json`` puts in place.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bmojo.errors import UserError, suggestion
from bmojo.storage.columns import Columns
from bmojo.storage.matched_description import (
    NAME,
    MatchedIdentity,
    claim,
    describe,
    folder_name,
    switch,
)
from bmojo.storage.store import WriteError, writer_lock

__all__ = ["Document", "MatchedStore", "Rows"]

BLOCK = 4096
"""Entries that are copied at once."""
PUBLISH_ROWS = 8192
"""A call that writes publishes if so many rows are not."""
FEW = 16
"""Chains that are followed one by one, rather than all together step by step."""
NO_GRAM = -2
"""In place of a pointer: the entry's document holds no whole n-gram there."""


class Document(NamedTuple):
    """A text whose entries are in a store: from ``first`` on, up to those of the next."""

    name: str
    first: int
    written: float


class Rows(NamedTuple):
    """Entries: keys (..., width) float32, tokens that followed (...), hashes (..., h) uint32."""

    key: np.ndarray
    token: np.ndarray
    hashes: np.ndarray


class MatchedStore:
    """Entries of one model's read-out, on disk; made by :meth:`open`.

    A writer finds at once what it has appended, a reader what was published when it was opened or
    refreshed. A store is used by one thread at a time.
    """

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        identity: MatchedIdentity | None = None,
        *,
        write: bool,
    ) -> "MatchedStore":
        """Open a store, or make one.

        Args:
          directory: of the store.
          identity: of the model that is to use it; None opens that of any model.
          write: whether it is written to, by this process alone; then it is made if it is not
            there.

        Raises:
          UserError: there is no store, or no place for one; another process writes to it; it
            belongs to another model; its files cannot be read.
        """
        path = Path(directory).expanduser().absolute()
        with contextlib.ExitStack() as held:
            if write:
                if identity is None:
                    describe(path)  # says that there is none
                claim(path)
                held.enter_context(writer_lock(path))
                if not (path / NAME).exists():
                    assert identity is not None
                    (path / folder_name(1)).mkdir(exist_ok=True)
                    switch(path, identity, folder_name(1))
            there = describe(path)[0]
            if identity is not None:
                there.require(identity, path)
            store = cls(path, there, write)
            store._held = held.pop_all()
            return store

    def __init__(self, path: Path, identity: MatchedIdentity, write: bool):
        self.path, self.identity, self._write = path, identity, write
        self._held = contextlib.ExitStack()
        self._error: WriteError | None = None
        self.documents: list[Document] = []
        folder = self._enter()
        if write:
            for stray in path.glob("[0-9]" * 6):
                if stray.name != folder:
                    shutil.rmtree(stray, ignore_errors=True)

    def _enter(self) -> str:
        """Read the folder that counts from its beginning; its name."""
        folder = describe(self.path)[1]
        try:
            self._start(folder)
        except FileNotFoundError as error:
            if describe(self.path)[1] != folder:  # a writer has forgotten documents meanwhile
                return self._enter()
            raise UserError(f"{error.filename}: is missing; put the file back") from None
        return folder

    def _start(self, folder: str) -> None:
        self._newest, self._linked = dict[int, int](), 0
        self._columns = Columns(self.path / folder, self.identity.columns(), self._write)
        self._read_links()

    def _read_links(self) -> None:
        """Take over entries and documents that are new in the columns."""
        first, columns = self._linked, self._columns
        previous = columns["previous"][first:]
        there = np.flatnonzero(previous != NO_GRAM) + first
        try:
            if ((previous >= np.arange(first, len(self))) | (previous < NO_GRAM)).any():
                raise ValueError("a pointer that does not lead back")
            lines = columns["documents"].tobytes().decode().splitlines()
            self.documents = [Document(**json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            raise UserError(
                f"{columns.path}: entries are damaged; bmojo memory verify names them"
            ) from None
        self._newest.update(zip(columns["gram"][there].tolist(), there.tolist(), strict=True))
        self._linked = len(self)

    def __len__(self) -> int:
        return self._columns.length["token"]

    def __enter__(self) -> "MatchedStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, document: str) -> None:
        """Let the entries that follow be those of a document; n-grams do not span two."""
        self._begin(document, time.time())

    def _begin(self, document: str, written: float) -> None:
        with self._writing():
            made = Document(document, len(self), written)
            line = json.dumps(made._asdict(), ensure_ascii=False) + "\n"
            self._columns.append(documents=np.frombuffer(line.encode(), np.uint8))
            self.documents.append(made)

    def append(
        self,
        key: np.ndarray,
        token: np.ndarray,
        gram: np.ndarray,
        hashes: np.ndarray | None = None,
        whole: np.ndarray | None = None,
    ) -> None:
        """Add entries behind those that are there.

        Args:
          key: (n, width), numbers.
          token: that followed each (n,).
          gram: n-gram that ends in each, in 64 bits (n,).
          hashes: (n, h), where the store has some.
          whole: whether the document holds all of the n-gram (n,); None: it does. Else the entry
            is not found.
        """
        rows = {"token": np.asarray(token), "gram": np.asarray(gram, np.uint64)}
        if self.identity.hashes:
            rows["hashes"] = np.zeros((len(token), 0)) if hashes is None else np.asarray(hashes)
        rows |= _encoded(np.asarray(key, np.float32), self.identity.dtype)
        kinds = self.identity.columns()
        for name, array in rows.items():
            if array.shape != (len(token), *kinds[name].shape):
                wanted = ", ".join(map(str, ("n", *kinds[name].shape)))
                raise ValueError(f"{name}: has shape {array.shape}; the store holds ({wanted})")
        if not self.documents:
            raise ValueError("append: begin a document first")
        self._append(rows, np.ones(len(token), bool) if whole is None else np.asarray(whole))

    def _append(self, rows: dict[str, np.ndarray], whole: np.ndarray) -> None:
        """Write rows of all columns but the pointers, which follow from their n-grams."""
        with self._writing():
            previous, newest = [], self._newest
            pairs = zip(rows["gram"].tolist(), whole.tolist(), strict=True)
            for number, (gram, some) in enumerate(pairs, len(self)):
                previous.append(newest.get(gram, -1) if some else NO_GRAM)
                if some:
                    newest[gram] = number
            self._columns.append(**rows, previous=np.array(previous, np.int32))
            self._linked = len(self)
            if len(self) - self._columns.published["token"] >= PUBLISH_ROWS:
                self._columns.publish()

    def lookup(self, grams: np.ndarray, cap: int) -> np.ndarray:
        """The ``cap`` newest entries of each n-gram (T,): (T, cap) int32, the newest first, -1."""
        newest = [self._newest.get(gram, -1) for gram in np.asarray(grams, np.uint64).tolist()]
        previous = self._columns["previous"]
        if len(newest) <= FEW:
            chains = [_chain(entry, previous.data, cap) for entry in newest]
            return np.array(chains, np.int32).reshape(-1, cap)
        found = np.full((cap, len(newest)), -1, np.int32)
        entry = np.array(newest, np.int32)
        for row in range(cap):
            if entry.max() < 0:
                break
            found[row] = entry
            entry = np.where(entry < 0, -1, previous.take(entry, mode="clip"))
        return found.T

    def gather(self, entries: np.ndarray) -> Rows:
        """Entries by their numbers (...); arbitrary ones for -1."""
        if not len(self):
            raise ValueError("gather: the store is empty")
        entries, columns = np.maximum(entries, 0), self._columns
        key = columns["key"].take(entries, axis=0, mode="clip").astype(np.float32, copy=False)
        if self.identity.dtype == "int8":
            key *= columns["scale"].take(entries)[..., None]
        empty = np.zeros((*entries.shape, 0), np.uint32)
        hashes = columns["hashes"].take(entries, axis=0) if self.identity.hashes else empty
        return Rows(key, columns["token"].take(entries), hashes)

    def publish(self) -> None:
        """Make all entries durable, and seen by readers from their next refresh on."""
        with self._writing():
            self._columns.publish()

    def refresh(self) -> None:
        """Let a reader see what has been published since."""
        if self._write:
            return
        if describe(self.path)[1] != self._columns.path.name:
            self._enter()
        self._columns.refresh()
        self._read_links()

    def forget(self, names: Collection[str]) -> int:
        """Delete the documents of these names for good; how many entries they had."""
        known = {document.name for document in self.documents}
        for name in sorted(set(names) - known):
            raise UserError(f"{self.path}: has no source {name!r}; {suggestion(name, known)}")
        if not names:
            return 0
        old, before = self._columns, len(self)
        kept = [(x, end) for x, end in self.spans() if x.name not in names]
        folder = folder_name(int(old.path.name) + 1)
        with self._writing():
            (self.path / folder).mkdir()
            self._start(folder)
            for document, end in kept:
                self._begin(document.name, document.written)
                for start in range(document.first, end, BLOCK):
                    part = slice(start, min(start + BLOCK, end))
                    rows = {name: old[name][part] for name in old.length if name != "documents"}
                    self._append(rows, rows.pop("previous") != NO_GRAM)
            self._columns.publish()
            switch(self.path, self.identity, folder)
            old.close()
            shutil.rmtree(old.path, ignore_errors=True)
        return before - len(self)

    def spans(self) -> list[tuple[Document, int]]:
        """All documents, and the end of each one's entries."""
        ends = [document.first for document in self.documents[1:]] + [len(self)]
        return list(zip(self.documents, ends, strict=True))

    def column(self, name: str) -> np.ndarray:
        """All entries of a column (:meth:`MatchedIdentity.columns`), which is not to be changed."""
        return self._columns[name]

    def ngrams(self) -> int:
        """Different n-grams."""
        return len(self._newest)

    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def close(self) -> None:
        """Publish what was written, and let other writers in."""
        with self._held:
            try:
                if self._write and self._error is None:
                    self.publish()
            finally:
                self._columns.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """An error of the disk inside is raised by all later calls, too."""
        if not self._write:
            raise UserError(
                f"{self.path}: the store was opened for reading; open it with write=True"
            )
        if self._error is not None:
            raise self._error
        try:
            yield
        except OSError as error:
            self._error = WriteError(
                f"{self.path}: the store cannot be written ({error}); see to space and rights there"
            )
            raise self._error from error


def _chain(entry: int, previous: memoryview, cap: int) -> list[int]:
    """The entries that pointers lead to, and then -1."""
    chain: list[int] = []
    while entry >= 0 and len(chain) < cap:
        chain.append(entry)
        entry = previous[entry]
    return chain + [-1] * (cap - len(chain))


def _encoded(key: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """The columns of keys."""
    if dtype == "float32":
        return {"key": key}
    scale = np.maximum(np.abs(key).max(axis=-1, initial=0), np.float32(1e-30)) / 127
    return {"key": np.rint(key / scale[..., None]).astype(np.int8), "scale": scale}
