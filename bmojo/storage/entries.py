"""Entries of a store: as they are written, found and shown."""

import dataclasses

import numpy as np

__all__ = ["Entries", "Found", "Record"]


@dataclasses.dataclass(frozen=True)
class Entries:
    """Tokens of one layer, to be stored; arrays are copied.

    Attributes:
      key: of every kv head, (n, G, P), float32; ``value`` likewise.
      innovation: how surprising each token was, (n,).
      position: of each token in its source, (n,), int64.
      token: ids, (n,), int32.
      context: the last c ids up to each token, (n, c), int32; -1 where there are fewer.

    Raises:
      ValueError: shapes do not fit together, or a number is not finite.
    """

    key: np.ndarray
    value: np.ndarray
    innovation: np.ndarray
    position: np.ndarray
    token: np.ndarray
    context: np.ndarray

    def __post_init__(self) -> None:
        dtypes = (np.float32, np.float32, np.float32, np.int64, np.int32, np.int32)
        for name, dtype in zip(vars(self).copy(), dtypes, strict=True):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype, order="C"))
        if self.key.ndim != 3:
            raise ValueError(f"Entries.key: has shape {self.key.shape}; give (n, heads, width)")
        n = len(self.key)
        wanted = {"value": self.key.shape, "context": (n, (0, *self.context.shape)[-1])}
        for name in ("value", "innovation", "position", "token", "context"):
            there, shape = getattr(self, name).shape, wanted.get(name, (n,))
            if there != shape:
                raise ValueError(
                    f"Entries.{name}: has shape {there}, the keys {self.key.shape}; give "
                    f"{'(n, c)' if name == 'context' else shape}"
                )
        for name in ("key", "value", "innovation"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"Entries.{name}: is infinite or not a number somewhere")

    def __len__(self) -> int:
        return len(self.key)


@dataclasses.dataclass(frozen=True)
class Found:
    """Entries found for each kv head: keys and values (G, m, P), float32, and ids (G, m), int64.

    Keys and values are zero and ids -1 where vacant.
    """

    key: np.ndarray
    value: np.ndarray
    id: np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """All that is stored of one entry, with the fields of :class:`Entries`.

    Attributes:
      id: the entry's number.
      layer: index of the layer.
      source: name of the text that the token came from.
      born: the store's clock, in tokens, when it was written.
      written: seconds since 1970, when it was written.
      uses: how often it was retrieved by a writer.
      used: seconds since 1970, when it was retrieved last, or None.
      strength: what decay and reinforcement have left of it now.
    """

    id: int
    layer: int
    source: str
    position: int
    token: int
    innovation: float
    born: int
    written: float
    uses: int
    used: float | None
    context: np.ndarray
    strength: float
    key: np.ndarray
    value: np.ndarray
