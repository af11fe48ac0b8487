"""How entries of a store are shown: their tokens as text, and when they were written."""

import json
import time
from typing import TYPE_CHECKING

import typer

from bmojo.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from bmojo.data.text.tokenizers import Tokenizer
    from bmojo.storage import Identity, MatchedIdentity


def find_tokenizer(identity: "Identity | MatchedIdentity") -> "Tokenizer | None":
    """The store's tokenizer; None, with a note, if it is not to be had."""
    if not identity.tokenizer_spec:
        return None
    from bmojo.data.text.tokenizers import tokenizer

    try:
        made = tokenizer(identity.tokenizer_spec)
        if identity.tokenizer in ("", made.fingerprint):
            return made
        problem = f"{identity.tokenizer_spec} is no longer the store's tokenizer"
    except UserError as error:
        problem = f"the tokenizer is not to be had: {error}"
    typer.echo(f"note: showing ids, as {problem}", err=True)
    return None


def shown(context: "np.ndarray", coder: "Tokenizer | None", begins: bool = False) -> str:
    """Tokens as text in quotes, or as ids; ``begins``: a source begins with them."""
    if coder is None:
        return spaced(context).strip()
    return json.dumps(decoded(context, coder, begins), ensure_ascii=False)


def decoded(context: "np.ndarray", coder: "Tokenizer", begins: bool = False) -> str:
    """Text of a context; unless a source begins with it, decoded behind a word.

    Decoders take the blank off the first word that they see.
    """
    word = [] if begins else coder.encode("a").tolist()
    return coder.decode([*word, *context.tolist()])[len(coder.decode(word)) :]


def spaced(words: "str | np.ndarray") -> str:
    """Ids with a blank before and behind each."""
    try:
        ids = [int(word) for word in (words.split() if isinstance(words, str) else words)]
    except ValueError:
        raise UserError(
            f"TEXT: {words!r} is not ids, and the store has no tokenizer that could make some; "
            "give ids with blanks between them, such as '17 4 4'"
        ) from None
    return f" {' '.join(map(str, ids))} "


def when(seconds: float) -> str:
    """A time since 1970 as a date."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
