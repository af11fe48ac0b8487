"""The description of a store, ``store.json``: format, identity of the model, policy, dtype."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import bmojo
from bmojo.errors import UserError, type_problem
from bmojo.files import write_atomically
from bmojo.storage.policy import Policy

__all__ = ["Description", "Identity", "NoStore"]

FORMAT = 2
DTYPES = ("float32", "float16")
NAME = "store.json"
OWN = ("writer.lock", *(f"entries.sqlite{end}" for end in ("", "-wal", "-shm", "-journal")))
"""Names of the other files of a store."""


class NoStore(UserError):
    """There is no store at a path."""


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
        for name in ("heads", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"Identity.{name}: {getattr(self, name)} is none; give 1 or more")
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(
                f"Identity.layers: {self.layers} does not name layers; give each index once"
            )
        if not self.model:
            raise ValueError("Identity.model: is empty; give the fingerprint of the model")

    def require(self, here: "Identity", path: Path) -> None:
        """Compare the identity of a store with a model's; a UserError says how they differ."""
        words = {
            name: f"{name} {_shown(there)} there and {_shown(wanted)} here"
            for name in ("heads", "width", "layers", "model", "tokenizer")
            if (there := getattr(self, name)) != (wanted := getattr(here, name))
        }
        if not words:
            return
        kind = "a model with another tokenizer"
        if words.keys() & {"heads", "width", "layers"}:
            kind = "a model of another shape"
        elif "model" in words:
            kind = "another model"
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
    """The content of ``store.json``.

    Attributes:
      identity: of the model that the store belongs to.
      policy: bounds of the store.
      dtype: of keys and values on disk.

    Raises:
      ValueError: the dtype is unknown.
    """

    identity: Identity
    policy: Policy
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is unknown; choose one of {DTYPES}")

    @property
    def shape(self) -> tuple[int, int]:
        """Kv heads and width."""
        return self.identity.heads, self.identity.width

    @classmethod
    def read(cls, directory: Path) -> "Description":
        """Read the description of the store in a directory.

        Raises:
          NoStore: there is none.
          UserError: it cannot be read, or is of another format.
        """
        path = directory / NAME
        try:
            there = json.loads(path.read_bytes())
            number, version = there["format"], there.get("version", "0.1.0 or earlier")
            if number == FORMAT:
                fields = there["identity"] | {"layers": tuple(there["identity"]["layers"])}
                return cls(Identity(**fields), Policy(**there["policy"]), there["dtype"])
        except (FileNotFoundError, NotADirectoryError):
            raise NoStore(
                f"{directory}: no store is here (no {NAME}); name the directory of one, or let a "
                "model write one"
            ) from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"{path}: not readable as the description of a store; put it back"
            ) from None
        raise UserError(
            f"{path}: has format {number}, written by bmojo {version}; this version reads format "
            f"{FORMAT}: use the version that wrote it, or let the model write a new store"
        )

    def write(self, directory: Path) -> None:
        """Replace the description of the store in a directory."""
        content = {"format": FORMAT, "version": bmojo.__version__, **dataclasses.asdict(self)}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(directory / NAME, text)

    @staticmethod
    def claim(directory: Path) -> bool:
        """Make a directory for a store; whether a store is there already.

        A directory that cannot be made or that holds other files raises a UserError.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            names = sorted(p.name for p in directory.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise UserError(
                f"{directory}: no store can be made here ({error.strerror}); choose another "
                "directory"
            ) from None
        strangers = [name for name in names if name not in OWN]
        if NAME not in names and strangers:
            raise UserError(
                f"{directory}: holds {strangers[0]!r} and no store; choose a new directory"
            )
        return NAME in names
