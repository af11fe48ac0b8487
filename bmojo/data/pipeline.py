"""Batches of examples, in the order of their index, from a position that can be saved."""

from typing import Any

import numpy as np

from bmojo.errors import UserError

Batch = dict[str, np.ndarray]


class DataError(UserError):
    """An example cannot be read; the message names it."""

    exit_code = 5


class NamedErrors:
    """A source whose errors name the example, but for those of the types ``unchanged``."""

    def __init__(self, source: Any, unchanged: tuple[type[Exception], ...] = ()):
        self._source = source
        self._unchanged: tuple[type[Exception], ...] = (UserError, MemoryError, *unchanged)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._source[index]
        except self._unchanged:
            raise
        except Exception as error:
            name = type(getattr(self._source, "config", self._source)).__name__
            split = getattr(self._source, "split", None)
            place = f"example {index:,}" + (f" of the {split} split" if split else "")
            cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise DataError(f"{name}: {place} cannot be read ({cause}); mend the data") from error


class Batches:
    """Batches of examples start, start + 1, ..., without an end of their own.

    Too few examples for a whole batch are a ``UserError``, an unreadable one a
    :class:`DataError`.

    Args:
      source: random access to examples, dicts of arrays; fields are stacked. Positions hold its
        ``fingerprint``, and that of its ``tokenizer``, if it has them.
      batch_size: examples a batch.
      start: index of the first example.
      rows: the rows of every batch that are read here, (first, last + 1); None: all. Positions
        do not depend on it.
    """

    def __init__(
        self, source: Any, batch_size: int, start: int = 0, rows: tuple[int, int] | None = None
    ):
        self._start, self._batch_size, self._total = start, batch_size, len(source)
        self._source = getattr(source, "fingerprint", None)
        self._tokenizer = getattr(source, "tokenizer", None)
        self._count = max(0, len(source) - start) // batch_size
        self._rows = range(*(rows or (0, batch_size)))
        self._examples = NamedErrors(source)
        self._next = 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if self._next == self._count:
            raise UserError(
                f"data: the {self._total:,} examples do not fill another batch of "
                f"{self._batch_size}; ask for fewer, or give more data"
            )
        # The training loop fetches while the accelerator computes, so no thread reads ahead,
        # and the position is exactly that of the last batch handed out.
        first = self._start + self._next * self._batch_size
        examples = [self._examples[first + row] for row in self._rows]
        self._next += 1
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch, as JSON values."""
        return {
            "start": self._start, "batch_size": self._batch_size, "source": self._source,
            "tokenizer": self._tokenizer, "next": self._next,
        }  # fmt: skip

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position of :meth:`get_state`.

        Raises:
          UserError: the data have changed since.
          ValueError: the position was taken with another start or batch size.
        """
        if state["source"] != self._source:
            raise UserError(
                "data: they are not those that the run was started with (another fingerprint); put "
                "the former data back, or start over with --fresh"
            )
        for field, value in (("start", self._start), ("batch_size", self._batch_size)):
            if state[field] != value:
                raise ValueError(
                    f"data position: it was saved with {field} {state[field]}, not {value}; "
                    "resume with the config that the run was started with"
                )
        self._next = state["next"]


class Segments:
    """Batches cut along time: each comes as ``count`` parts of equal length, one after another.

    Fields with a time axis, shape (B, L), are cut; ``count`` divides L. The others come whole with
    every part. A position between two parts is that before the batch and the number of the next.
    """

    def __init__(self, batches: Batches, count: int = 1):
        self._batches, self._count = batches, count
        self._before = batches.get_state()
        self._batch: Batch = {}
        self._part = 0

    def __iter__(self) -> "Segments":
        return self

    def __next__(self) -> Batch:
        if self._part == 0:
            self._before = self._batches.get_state()
            self._batch = next(self._batches)
        elif not self._batch:  # after set_state
            self._batch = next(self._batches)
        part, self._part = self._part, (self._part + 1) % self._count
        return {name: self._cut(value, part) for name, value in self._batch.items()}

    @property
    def within(self) -> bool:
        """Whether the next part goes on with the sequences of the one before."""
        return self._part > 0

    def get_state(self) -> dict[str, Any]:
        """The position after the last part, as JSON values."""
        batches = self._before if self.within else self._batches.get_state()
        return {"batches": batches, "part": self._part}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position of :meth:`get_state`; raises as :meth:`Batches.set_state` does."""
        self._batches.set_state(state["batches"])
        self._before, self._batch, self._part = state["batches"], {}, state["part"]

    def _cut(self, value: np.ndarray, part: int) -> np.ndarray:
        if value.ndim < 2:
            return value
        size = value.shape[1] // self._count
        return value[:, part * size : (part + 1) * size]
