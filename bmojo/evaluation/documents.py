"""Documents to measure a model on, as token ids.

A text becomes ``[eos, its tokens, eos]``: every token of it is predicted, and its end.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.validation import UserError

__all__ = ["SUFFIXES", "encode_document", "read_documents", "run_tokenizer", "run_documents"]

SUFFIXES = (".txt", ".jsonl", ".npy")


def run_tokenizer(experiment: Any) -> Any | None:
    """The tokenizer of an experiment's data; None for tasks of bare tokens."""
    return getattr(experiment.curriculum[0].data, "tokenizer", None)


def run_documents(experiment: Any) -> Sequence[np.ndarray]:
    """The documents of the test split of an experiment's data.

    Raises:
      UserError: its data have no documents.
    """
    find = getattr(experiment.curriculum[0].data, "documents", None)
    if not callable(find):
        raise UserError(
            "documents: the run's data are no documents; name a folder of "
            f"{', '.join(SUFFIXES)} files with --documents"
        )
    return find("test")


def encode_document(tokenizer: Any, text: str) -> np.ndarray:
    """A whole document as token ids, its end on both sides."""
    ids = np.asarray(tokenizer.encode(text), np.int32)
    return np.concatenate([[tokenizer.eos], ids, [tokenizer.eos]]).astype(np.int32)


def read_documents(folder: str | Path, tokenizer: Any | None) -> list[np.ndarray]:
    """The documents of a folder or file, in the order of the names.

    A .txt file is a document, every line of a .jsonl file one, in its field ``text``, and a
    .npy file one of token ids, taken as they are.

    Args:
      folder: where the files are; subfolders are read too.
      tokenizer: of the run; None: only token ids can be read.

    Raises:
      UserError: nothing is there, a file cannot be read, or a text has no tokenizer.
    """
    root = Path(folder).expanduser()
    found = sorted(root.rglob("*")) if root.is_dir() else [root]
    paths = [path for path in found if path.suffix in SUFFIXES and path.is_file()]
    if not paths:
        raise UserError(
            f"{folder}: no documents are here; give a folder of {', '.join(SUFFIXES)} files"
        )
    documents: list[np.ndarray] = []
    for path in paths:
        if path.suffix == ".npy":
            documents.append(_ids(path))
            continue
        if tokenizer is None:
            raise UserError(
                f"{path}: the run has no tokenizer to read text with; give token ids as .npy files"
            )
        documents.extend(encode_document(tokenizer, text) for text in _texts(path))
    return documents


def _texts(path: Path) -> Iterator[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 ({error}); take it away") from None
    if path.suffix == ".txt":
        yield content
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, TypeError, KeyError):
            text = None
        if not isinstance(text, str):
            raise UserError(f'{path}:{number}: no JSON object with a text; write {{"text": "..."}}')
        yield text


def _ids(path: Path) -> np.ndarray:
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an array ({error})") from None
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"{path}: holds {ids.dtype} of shape {ids.shape}; give a row of integer token ids"
        )
    return ids.astype(np.int32)
