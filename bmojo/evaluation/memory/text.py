"""The text of a memory report: tokens of a file, and their display."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.files import read_file
from bmojo.generation.generate import check_tokens
from bmojo.generation.stopping import Continuation

PARTIAL, END = "·", "⟨eos⟩"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Display of a token; ``plain``: it is the text itself, not a sign for what is invisible."""

    text: str
    plain: bool = True


def read_tokens(
    path: str | Path, tokenizer: Any | None, vocab_size: int, limit: int | None = None
) -> np.ndarray:
    """The tokens of a file, at most ``limit``, as a document begins in training.

    A text is read as UTF-8, and the tokenizer's end of document precedes it. Without a
    tokenizer the file holds token ids, separated by blanks or line feeds.

    Raises:
      UserError: the file is missing, empty, in another encoding or no list of the model's
        ids, or the tokenizer has more tokens than the model.
    """
    try:
        text = read_file(Path(path).expanduser()).decode("utf-8-sig")
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
    words = text.split()
    for number, word in enumerate(words, start=1):
        if not word.removeprefix("-").isdecimal() or len(word) > 18:
            raise UserError(
                f"{path}: word {number}, {word[:20]!r}, is no token id; the run's task has no "
                "tokenizer, so give ids separated by blanks"
            )
    ids = [int(word) for word in words]
    check_tokens(ids, vocab_size, str(path))
    return np.asarray(ids[:limit], np.int32)


def pieces(tokenizer: Any | None, tokens: Sequence[int] | np.ndarray) -> list[Piece]:
    """Display of each token; a character stands at the token of its last byte."""
    if tokenizer is None:
        return [Piece(f"{token} ") for token in tokens]
    shown, document = [], Continuation(tokenizer.decode)
    for token in tokens:
        if token == tokenizer.eos:
            shown.append(Piece(END, False))
            document = Continuation(tokenizer.decode)
            continue
        text = document.add(token)
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
