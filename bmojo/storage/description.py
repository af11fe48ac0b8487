"""The description of a store, ``store.json``: format, identity of the model, policy, dtype."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import bmojo
from bmojo.errors import UserError, type_problem
from bmojo.files import write_atomically
from bmojo.storage.policy import Policy

__all__ = ["Description", "Identity"]

FORMAT = 2
NAME = "store.json"
OWN = ("writer.lock", *(f"entries.sqlite{end}" for end in ("", "-wal", "-shm", "-journal")))
"""Names of the other files of a store."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """The model that a store belongs to. Keys of one model mean nothing to another.

    Attributes:
      model: fingerprint of architecture and parameters, in hexadecimal.
      tokenizer: fingerprint of the tokenizer, or "" without one.
      heads: kv heads of a layer, G.
      width: of a head, P.
      layers: indices of the layers whose tokens are stored.
      description: where the model comes from, for people; not compared.
      tokenizer_spec: specification of the tokenizer, such as "bytes", so that text can be shown;
        "" shows ids. Not compared.

    Raises:
      ValueError: a field has a wrong type or value.
    """

    model: str
    tokenizer: str
    heads: int
    width: int
    layers: tuple[int, ...]
    description: str = ""
    tokenizer_spec: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            problem = type_problem(getattr(self, field.name), field.type)
            if problem is not None:
                raise ValueError(f"Identity.{field.name}: {problem}")
        if min(self.heads, self.width) < 1:
            raise ValueError(f"Identity: {self.heads} heads of width {self.width}; give 1 or more")
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(f"Identity.layers: {self.layers}; give the index of each layer once")
        if not self.model:
            raise ValueError("Identity.model: is empty; give the fingerprint of the model")

    def require(self, here: "Identity", path: Path) -> None:
        """Raise a UserError if the identity of a store differs from that of the model here."""
        kinds = dict.fromkeys(("heads", "width", "layers"), "a model of another shape")
        kinds |= {"model": "another model", "tokenizer": "a model with another tokenizer"}
        words = {
            name: f"{name} {_shown(there)} there and {_shown(wanted)} here"
            for name in kinds
            if (there := getattr(self, name)) != (wanted := getattr(here, name))
        }
        if not words:
            return
        kind = kinds[next(iter(words))]
        origin = f", written by {self.description}" if self.description else ""
        raise UserError(
            f"{path}: holds the memory of {kind} ({'; '.join(words.values())}{origin}); open it "
            "with the model that wrote it, or name a new directory"
        )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return (value[:12] or "none") if isinstance(value, str) else str(value)


@dataclasses.dataclass(frozen=True)
class Description:
    """The content of ``store.json``: the model that the store belongs to, and its bounds."""

    identity: Identity
    policy: Policy
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, int]:
        """Kv heads and width."""
        return self.identity.heads, self.identity.width

    @classmethod
    def read(cls, directory: Path) -> "Description":
        """Read that of the store in a directory; a UserError if it cannot be."""
        path = directory / NAME
        try:
            there = json.loads(path.read_bytes())
            number, version = there["format"], there.get("version", "0.1.0 or earlier")
            if number == FORMAT and there["dtype"] == cls.dtype:
                fields = there["identity"] | {"layers": tuple(there["identity"]["layers"])}
                return cls(Identity(**fields), Policy(**there["policy"]))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{directory}: no store is here (no {NAME}); name the directory of one, or let a "
                "model write one"
            ) from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            reason = "not readable as the description of a store; put it back"
            raise UserError(f"{path}: {reason}") from None
        raise UserError(
            f"{path}: has format {number}, written by bmojo {version}; this version reads "
            f"{cls.dtype} of format {FORMAT}: use the version that wrote it, or let the model "
            "write a new store"
        )

    def write(self, directory: Path) -> None:
        """Replace the description of the store in a directory."""
        content = {"format": FORMAT, "version": bmojo.__version__, **dataclasses.asdict(self)}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(directory / NAME, text)

    @staticmethod
    def claim(directory: Path) -> bool:
        """Make a directory for a store; whether one is there already. UserError if not possible."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            names = sorted(p.name for p in directory.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise UserError(
                f"{directory}: no store can be made here ({error.strerror}); choose another place"
            ) from None
        strangers = [name for name in names if name not in OWN]
        if NAME not in names and strangers:
            raise UserError(
                f"{directory}: holds {strangers[0]!r} and no store; choose a new directory"
            )
        return NAME in names
