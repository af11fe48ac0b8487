"""Entries of a store: as they are written, found and shown."""

import dataclasses

import numpy as np

__all__ = ["Entries", "Found", "Record"]


@dataclasses.dataclass(frozen=True)
class Entries:
    """Tokens of one layer, to be stored; arrays are copied.

    Attributes:
      key: of every kv head, (n, G, P), float32.
      value: of every kv head, (n, G, P), float32.
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
        for field, dtype in zip(dataclasses.fields(self), dtypes, strict=True):
            array = np.array(getattr(self, field.name), dtype, order="C")
            object.__setattr__(self, field.name, array)
        if self.key.ndim != 3:
            raise ValueError(f"Entries.key: has shape {self.key.shape}; give (n, heads, width)")
        n, words = len(self.key), self.context.shape[1] if self.context.ndim == 2 else "c"
        wanted = {"value": self.key.shape, "context": (n, words)}
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

    def rounded(self, shape: tuple[int, int], dtype: str) -> "Entries":
        """The same with keys and values as they come back from the disk.

        Raises:
          ValueError: their shape is not the store's, or the dtype cannot hold them.
        """
        if self.key.shape[1:] != shape:
            raise ValueError(
                f"Entries.key: has shape {self.key.shape}; the store holds (n, {shape[0]}, "
                f"{shape[1]})"
            )
        with np.errstate(over="ignore"):
            key, value = (x.astype(dtype) for x in (self.key, self.value))
        if not (np.isfinite(key).all() and np.isfinite(value).all()):
            raise ValueError(
                f"Entries: {dtype} cannot hold keys or values above {np.finfo(dtype).max:.0f}; "
                "make the store with float32"
            )
        return dataclasses.replace(self, key=key, value=value)


@dataclasses.dataclass(frozen=True)
class Found:
    """Entries that were found for each kv head.

    Attributes:
      key: of the head, (G, m, P), float32; zero where vacant.
      value: of the head, (G, m, P), float32; zero where vacant.
      id: of the entries, (G, m), int64; -1 where vacant.
      score: inner product with the query that ranked the entry best, (G, m), float32; minus
        infinity where vacant.
      strength: what decay and reinforcement have left of the entry, (G, m), float32; 0 where
        vacant.
    """

    key: np.ndarray
    value: np.ndarray
    id: np.ndarray
    score: np.ndarray
    strength: np.ndarray

    @property
    def count(self) -> int:
        """Entries of the head that has most of them."""
        return int((self.id >= 0).sum(axis=1).max())


@dataclasses.dataclass(frozen=True)
class Record:
    """All that is stored of one entry.

    Attributes:
      id: the entry's number.
      layer: index of the layer.
      source: name of the text that the token came from.
      position: of the token in it.
      token: its id.
      innovation: how surprising it was.
      born: the store's clock, in tokens, when it was written.
      written: seconds since 1970, when it was written.
      uses: how often it was retrieved by a writer.
      used: seconds since 1970, when it was retrieved last, or None.
      context: ids up to the token, the token last, int32.
      strength: what decay and reinforcement have left of it now.
      key: (G, P), float32.
      value: (G, P), float32.
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
