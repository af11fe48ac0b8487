"""Whose memory a store is."""

import dataclasses
from pathlib import Path
from typing import Any

from bmojo.errors import UserError, type_problem

__all__ = ["Identity", "refuse_stranger"]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who may use a store. Keys of one model mean nothing to another.

    Attributes:
      model: fingerprint of architecture and parameters, in hexadecimal.
      tokenizer: fingerprint of the tokenizer, or "" without one.
      heads: kv heads of a layer, G.
      width: of a head, P.
      layers: indices of the layers whose tokens are stored.
      description: where the model comes from, for people; not compared.
      tokenizer_spec: what makes the tokenizer, such as "bytes", so that text can be shown; ""
        shows ids. Not compared.
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

    def to_json(self) -> dict[str, Any]:
        """As it lies in ``store.json``."""
        return dataclasses.asdict(self) | {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, there: dict[str, Any]) -> "Identity":
        """The inverse of :meth:`to_json`."""
        return cls(**there | {"layers": tuple(there["layers"])})


def refuse_stranger(path: Path, there: Identity, here: Identity) -> None:
    """See that a store was written by the model that is to use it.

    Raises:
      UserError: it was not; the message says in what they differ.
    """
    differences = []
    for name in ("heads", "width", "layers"):
        if getattr(there, name) != getattr(here, name):
            differences.append(
                f"{name} {_shown(getattr(there, name))} there and "
                f"{_shown(getattr(here, name))} here"
            )
    kind = "a model of another shape" if differences else "another model"
    for name in ("model", "tokenizer"):
        if getattr(there, name) != getattr(here, name):
            differences.append(
                f"{name} {_short(getattr(there, name))} there and "
                f"{_short(getattr(here, name))} here"
            )
    if not differences:
        return
    if there.model == here.model and kind == "another model":
        kind = "a model with another tokenizer"
    origin = f", written by {there.description}" if there.description else ""
    raise UserError(
        f"{path}: holds the memory of {kind} ({'; '.join(differences)}{origin}); open it with the "
        "model that wrote it, or name a new directory"
    )


def _short(fingerprint: str) -> str:
    return fingerprint[:12] or "none"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
