"""Documents to measure a model on, as token ids.

A text becomes ``[eos, its tokens, eos]``: every token of it is predicted, and its end.
"""

from pathlib import Path
from typing import Any

import numpy as np

from bmojo.data.text.corpus import Part, open_corpus, texts
from bmojo.data.text.tokenizers import pieces
from bmojo.errors import UserError
from bmojo.generation.generate import check_tokens
from bmojo.training.experiment import text_of


class Documents(list[np.ndarray]):
    """Token ids of documents; ``bytes`` are those of their text as UTF-8, None: unknown."""

    bytes: int | None = None


def run_documents(experiment: Any) -> Documents:
    """The documents of the test split of an experiment's data."""
    data = text_of(experiment)
    find = getattr(data, "documents", None)
    if not callable(find):
        raise UserError(
            "documents: the run's data are no documents; name a folder of "
            ".txt, .jsonl, .parquet or .npy files with --documents"
        )
    found = Documents(find("test"))
    if hasattr(data, "prepare"):
        found.bytes = data.prepare().facts("test")["bytes"]
    return found


def encode_document(tokenizer: Any, text: str) -> np.ndarray:
    """A whole document as token ids, its end on both sides."""
    ids = [np.asarray(tokenizer.encode(piece), np.int32) for piece in pieces(tokenizer, text)]
    end = np.asarray([tokenizer.eos], np.int32)
    return np.concatenate([end, *ids, end])


def read_documents(
    folder: str | Path, tokenizer: Any | None, vocab_size: int | None = None
) -> Documents:
    """The documents of a folder or file, or of another corpus that ``bmojo data prepare`` reads.

    Subfolders are read too. Texts come first, in the order of the files' names, then .npy files
    of token ids below ``vocab_size``, each a document taken as it is. Without a tokenizer only
    token ids can be read.

    Raises:
      UserError: nothing is there or nothing in it to predict, a file cannot be read or has other
        ids, or a text has no tokenizer.
    """
    root = Path(folder).expanduser()
    found = sorted(root.rglob("*.npy")) if root.is_dir() else [root]
    arrays = [path for path in found if path.suffix == ".npy" and path.is_file()]
    parts: list[Part] = []
    if arrays != [root]:
        try:
            corpus = open_corpus(str(folder), by_folder=False)
            parts = [part for split in corpus.parts.values() for part in split]
        except UserError:
            if not root.exists():
                raise
    if not parts and not arrays:
        raise UserError(
            f"{folder}: no documents are here; give a folder of .txt, .jsonl, .parquet or .npy "
            "files"
        )
    if parts and tokenizer is None:
        raise UserError(
            f"{folder}: {parts[0].name}: the run has no tokenizer to read it with; give token "
            "ids as .npy files"
        )
    documents, size = Documents(), 0
    for text in texts(parts, "text", None, "mend it"):
        documents.append(encode_document(tokenizer, text))
        size += len(text.encode())
    if not documents and not arrays:
        raise UserError(f"{folder}: its documents are empty; give some with text")
    documents.bytes = None if arrays else size
    documents += [_ids(path, vocab_size) for path in arrays]
    return documents


def _ids(path: Path, vocab_size: int | None) -> np.ndarray:
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise UserError(
            f"{path}: cannot be read as an array of numbers; write it with numpy.save"
        ) from None
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"{path}: holds {ids.dtype} of shape {ids.shape}; give a row of integer token ids"
        )
    check_tokens(ids, vocab_size or 2**31, str(path))
    return ids.astype(np.int32)
