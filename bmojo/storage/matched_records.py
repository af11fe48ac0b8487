"""Reports of a matched store: counts, texts, single entries."""

import bisect
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.storage.columns import Columns
from bmojo.storage.matched import Document, MatchedStore
from bmojo.storage.matched_description import describe

__all__ = ["document_of", "entry", "search", "stats", "text_at", "verify"]


def stats(store: MatchedStore) -> dict[str, Any]:
    """Counts and sizes; entries of each document, by name."""
    sources: dict[str, int] = {}
    for document, end in store.spans():
        sources[document.name] = sources.get(document.name, 0) + end - document.first
    return {
        "path": str(store.path),
        "entries": len(store),
        "ngrams": store.ngrams(),
        "bytes": store.bytes(),
        "sources": sources,
        "identity": dataclasses.asdict(store.identity),
    }


def document_of(store: MatchedStore, number: int) -> Document:
    """The document of an entry; a UserError if there is none of this number."""
    if not 0 <= number < len(store):
        raise UserError(
            f"{store.path}: has no entry {number}; it has 0 to {len(store) - 1:,}, and bmojo "
            "memory search shows some"
        )
    firsts = [document.first for document in store.documents]
    return store.documents[bisect.bisect_right(firsts, number) - 1]


def text_at(store: MatchedStore, number: int, length: int) -> np.ndarray:
    """The last tokens up to that of an entry, as many of its document as ``length`` at most.

    The first token of a document answers no entry, and is not stored.
    """
    first = document_of(store, number).first
    return store.column("token")[max(first, number - length) : number]


def search(store: MatchedStore, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Entries that come just behind these tokens in a document, the oldest first."""
    found, stored = np.arange(len(tokens), len(store) + 1), store.column("token")
    for back, token in enumerate(np.asarray(tokens)[::-1].tolist(), 1):
        found = found[stored[found - back] == token]
    found = found[found < len(store)]
    firsts = np.array([document.first for document in store.documents], int)
    begins = firsts[np.searchsorted(firsts, found, side="right") - 1]
    return found[found - len(tokens) >= begins]


def entry(store: MatchedStore, number: int) -> dict[str, Any]:
    """What is stored of an entry beside its key."""
    document = document_of(store, number)
    previous = int(store.column("previous")[number])
    return {
        "id": number,
        "source": document.name,
        "position": number - document.first,
        "written": document.written,
        "token": int(store.column("token")[number]),
        "gram": f"{int(store.column('gram')[number]):016x}",
        "previous": previous if previous >= 0 else None,
    }


def verify(directory: str | os.PathLike[str]) -> tuple[int, list[str]]:
    """Compare all of a store with its checksums.

    Returns:
      The number of entries, and what is wrong, a line for each.

    Raises:
      UserError: there is no store, or published rows are missing.
    """
    path = Path(directory).expanduser().absolute()
    identity, folder = describe(path)
    columns = Columns(path / folder, identity.columns(), write=False)
    return columns.length["token"], columns.verify()
