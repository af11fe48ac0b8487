"""The text of a memory report: tokens of a file, and their display."""

import codecs
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError

__all__ = ["Piece", "pieces", "read_tokens"]

PARTIAL, END = "·", "⟨eos⟩"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Display of a token.

    Attributes:
      text: to be shown in its place; a line feed in it breaks the line.
      plain: whether it is the text itself, not a sign for invisible characters.
    """

    text: str
    plain: bool = True


def read_tokens(
    path: str | Path, tokenizer: Any | None, vocab_size: int, limit: int | None = None
) -> np.ndarray:
    """The tokens of a file, as a document begins in training.

    A text is read as UTF-8, and the tokenizer's end of document precedes it. Without a
    tokenizer the file holds token ids, separated by blanks or line feeds.

    Args:
      path: the file.
      tokenizer: of the run; None: its task has bare tokens.
      vocab_size: of the model.
      limit: tokens to read at most; None: all.

    Raises:
      UserError: the file is missing, empty, in another encoding or no list of the model's
        ids, or the tokenizer has more tokens than the model.
    """
    try:
        text = Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8 and try again"
        ) from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty; give one with some text")
    if tokenizer is not None:
        if tokenizer.vocab_size > vocab_size:
            raise UserError(
                f"{path}: the run's tokenizer ({tokenizer.spec}) has {tokenizer.vocab_size} "
                f"tokens, the model {vocab_size}, so the run was trained with another one; set "
                "Text.path or Text.tokenizer_spec to that"
            )
        tokens = np.concatenate([[tokenizer.eos], tokenizer.encode(text)])
        return tokens[:limit].astype(np.int32)
    ids = _ids(path, text)
    wrong = [token for token in ids if not 0 <= token < vocab_size]
    if wrong:
        raise UserError(
            f"{path}: {wrong[0]} is not a token of this model; ids are 0 .. {vocab_size - 1}"
        )
    return np.asarray(ids[:limit], np.int32)


def _ids(path: str | Path, text: str) -> list[int]:
    words = text.split()
    for number, word in enumerate(words, start=1):
        if not word.removeprefix("-").isdecimal():
            raise UserError(
                f"{path}: word {number}, {word[:20]!r}, is no token id; the run's task has no "
                "tokenizer, so give ids separated by blanks"
            )
    return [int(word) for word in words]


def pieces(tokenizer: Any | None, tokens: Sequence[int] | np.ndarray) -> list[Piece]:
    """Display of each token; a character stands at the token of its last byte."""
    if tokenizer is None:
        return [Piece(f"{token} ") for token in tokens]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown = []
    for token in tokens:
        if token == tokenizer.eos:
            shown.append(Piece(END, False))
            continue
        text = decoder.decode(tokenizer.decode_bytes([int(token)]))
        if not text:
            shown.append(Piece(PARTIAL, False))
        elif text.isspace() and "\n" in text:
            shown.append(Piece(text.replace("\n", "↵\n"), False))
        else:
            visible = "".join(map(_visible, text))
            shown.append(Piece(visible, visible == text))
    return shown


def _visible(character: str) -> str:
    """A picture of control characters, the others as they are."""
    code = ord(character)
    if character in "\n\t" or code >= 0xA0 or 0x20 <= code < 0x7F:
        return character
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
