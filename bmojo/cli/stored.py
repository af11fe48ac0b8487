"""Options of commands that read with a store beside the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmojo.cli.common import Options, grouped, option
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.session import Use
    from bmojo.storage import Store

    Stored = tuple[Path | None, Use]

USE: Options = {
    "every": (int | None, None, option(
        "N",
        "Tokens between two looks into the store; divides the window. Default: the largest "
        "divisor up to 32.", "--memory-every", min=1)),
    "nearest": (int, 2, option(
        "N", "Entries that a token may look up in a head.", "--memory-nearest", min=1)),
    "agree": (int, 0, option(
        "N",
        "See an entry only if N of the last 2N tokens found, at the same distance in the same "
        "source, what lies in line with it: a text read again, not a chance match. 0: any entry.",
        "--memory-agree", min=0)),
    "threshold": (float | None, 1.0, option(
        "X",
        "Write what surprises at least X times as much as the mean token of its layer, and all "
        "that leaves the slots; 0: every token.", "--memory-threshold", min=0)),
}  # fmt: skip
STORE: Options = {
    "directory": (Path | None, None, option(
        "DIR",
        "A store on disk, made if it is not there: what leaves the model's memory is written to "
        "it, and looked up in it, now and in later commands.", "--memory")),
    "read_only": (bool, False, option(
        None, "Look things up in --memory, write nothing.", "--memory-read-only")),
    **USE,
}  # fmt: skip


def make_use(read_only: bool = False, **options: Any) -> "Use":
    """How a store is used."""
    from bmojo.session import Use

    try:
        return Use(**options, write=not read_only)
    except ValueError as error:
        raise UserError(f"--memory-{error}") from None


def make_store(directory: Path | None, read_only: bool, **options: Any) -> "Stored":
    """The directory of --memory, and how it is used."""
    if read_only and directory is None:
        raise UserError("--memory-read-only: there is no store; name one with --memory DIR")
    return directory, make_use(read_only, **options)


with_use = grouped("use", USE, make_use)
with_store = grouped("stored", STORE, make_store)


@contextmanager
def open_store(
    stored: "Stored", model: Any, tokenizer: Any | None, description: str
) -> Iterator["Store | None"]:
    """The store of --memory; None without it.

    Raises:
      UserError: it belongs to another model, is in use, or the model has no use for it.
    """
    directory, use = stored
    if directory is None:
        yield None
        return
    from bmojo.session import identify, largest_cell, stored_layers
    from bmojo.storage import Store

    largest_cell(stored_layers(model.config), use.every)
    identity = identify(model, tokenizer, description)
    with Store.open(directory, identity, write=use.write) as store:
        yield store
