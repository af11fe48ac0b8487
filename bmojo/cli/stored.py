"""Options of commands that read with a store beside the model."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.session import Use
    from bmojo.storage import Store

MemoryDir = Annotated[
    Path | None,
    typer.Option(
        "--memory",
        metavar="DIR",
        help="A store on disk, made if it is not there: what leaves the model's memory is written "
        "to it, and looked up in it, now and in later commands.",
    ),
]
ReadOnly = Annotated[
    bool, typer.Option("--memory-read-only", help="Look things up in --memory, write nothing.")
]
Every = Annotated[
    int | None,
    typer.Option(
        "--memory-every",
        min=1,
        metavar="N",
        help="Tokens between two looks into the store; divides the window. Default: the largest "
        "divisor up to 32.",
    ),
]
Nearest = Annotated[
    int,
    typer.Option(
        "--memory-nearest", min=1, metavar="N", help="Entries that a token may look up in a head."
    ),
]
Agree = Annotated[
    int,
    typer.Option(
        "--memory-agree",
        min=0,
        metavar="N",
        help="See an entry only if N of the last 2N tokens found, at the same distance in the same "
        "source, what lies in line with it: a text read again, not a chance match. 0: any entry.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--memory-threshold",
        min=0,
        metavar="X",
        help="Write what surprises at least X times as much as the mean token of its layer, and "
        "all that leaves the slots; 0: every token.",
    ),
]


@dataclasses.dataclass(frozen=True)
class Memory:
    """An open store and how it is used."""

    store: "Store"
    use: "Use"


@contextmanager
def memory(
    directory: Path | None,
    model: Any,
    tokenizer: Any | None,
    description: str,
    use: "Use",
) -> Iterator[Memory | None]:
    """The store of --memory; None without it.

    Raises:
      UserError: it belongs to another model, is in use, or the model has no use for it.
    """
    if directory is None:
        if not use.write:
            raise UserError("--memory-read-only: there is no store; name one with --memory DIR")
        yield None
        return
    from bmojo.session import identify, largest_cell, stored_layers
    from bmojo.storage import Store

    largest_cell(stored_layers(model.config), use.every)
    identity = identify(model, tokenizer, description)
    with Store.open(directory, identity, write=use.write) as store:
        yield Memory(store, use)
