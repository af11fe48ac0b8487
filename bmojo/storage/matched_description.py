"""The description of a matched store, ``matched.json``: format, identity, folder of columns."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np

import bmojo
from bmojo.errors import UserError
from bmojo.files import write_atomically

__all__ = ["NAME", "MatchedIdentity", "claim", "describe", "folder_name", "switch"]

FORMAT, NAME = 1, "matched.json"


@dataclasses.dataclass(frozen=True)
class MatchedIdentity:
    """The model whose entries these are, and what an entry holds.

    Attributes:
      model: fingerprint of architecture and parameters.
      tokenizer: fingerprint of the tokenizer, or "" without one.
      width: of a key.
      n: length of the n-grams that entries are found by.
      hashes: further hashes of an entry, in the caller's order.
      dtype: of keys: float32, or int8 with a scale for each key.
      description: where the model comes from, for people; not compared.
      tokenizer_spec: such as "bytes", so that text can be shown; not compared.
    """

    model: str
    tokenizer: str
    width: int
    n: int
    hashes: int = 0
    dtype: Literal["float32", "int8"] = "float32"
    description: str = ""
    tokenizer_spec: str = ""

    def columns(self) -> dict[str, np.dtype]:
        """Columns of a store; ``documents`` has bytes, the others a row for each entry."""
        small = self.dtype == "int8"
        return {
            "key": np.dtype(("i1" if small else "<f4", (self.width,))),
            **({"scale": np.dtype("<f4")} if small else {}),
            "token": np.dtype("<i4"),
            **({"hashes": np.dtype(("<u4", (self.hashes,)))} if self.hashes else {}),
            "gram": np.dtype("<u8"),
            "previous": np.dtype("<i4"),
            "documents": np.dtype("u1"),
        }

    def require(self, here: "MatchedIdentity", path: Path) -> None:
        """Raise a UserError if the identity of a store differs from that of the model here."""
        for field in dataclasses.fields(self)[:-2]:
            there, wanted = getattr(self, field.name), getattr(here, field.name)
            if there != wanted:
                raise UserError(
                    f"{path}: holds entries of another read-out ({field.name} {str(there)[:12]} "
                    f"there and {str(wanted)[:12]} here); open it with the model that wrote it, or "
                    "name a new directory"
                )


def folder_name(number: int) -> str:
    """Name of a folder of columns."""
    return f"{number:06}"


def switch(path: Path, identity: MatchedIdentity, folder: str) -> None:
    """Let a folder be the one that counts."""
    content = {"format": FORMAT, "version": bmojo.__version__, "folder": folder}
    content["identity"] = dataclasses.asdict(identity)
    write_atomically(path / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def describe(path: Path) -> tuple[MatchedIdentity, str]:
    """Identity of the store in a directory, and the folder that counts; UserError if none."""
    try:
        there = json.loads((path / NAME).read_bytes())
        if there["format"] == FORMAT:
            return MatchedIdentity(**there["identity"]), folder_name(int(there["folder"]))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: no matched store is here (no {NAME}); name the directory of one, or let a "
            "model write one"
        ) from None
    except OSError as error:
        raise UserError(f"{path / NAME}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        reason = "not readable as the description of a store; put it back"
        raise UserError(f"{path / NAME}: {reason}") from None
    raise UserError(
        f"{path / NAME}: has format {there['format']}, written by bmojo {there.get('version')}; "
        f"this version reads format {FORMAT}: use the version that wrote it"
    )


def claim(path: Path) -> None:
    """Make a directory for a store; a UserError if there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"{path}: no store can be made here ({error.strerror}); choose another place"
        ) from None
    strangers = [name for name in names if name not in ("writer.lock", folder_name(1))]
    if NAME not in names and strangers:
        raise UserError(f"{path}: holds {strangers[0]!r} and no store; choose a new directory")
