"""Sources, which give examples by number, and checks of the fields of their configs."""

import operator
from collections.abc import Callable
from typing import Any, Generic, SupportsIndex, TypeVar

__all__ = [
    "EXAMPLES", "SPLITS", "Source", "check_integer", "check_number", "check_share", "is_integer",
    "name_of",
]  # fmt: skip

SPLITS = ("train", "test")
EXAMPLES = 2**48
"""Examples of a split without an end: more than any run will ask for."""

Config = TypeVar("Config")


class Source(Generic[Config]):
    """Random access to the examples of a split; a subclass makes one in ``item``.

    Raises:
      ValueError: on an unknown split or a negative seed.
    """

    def __init__(self, config: Config, seed: int, split: str):
        if split not in SPLITS:
            raise ValueError(f"split: {split!r} is unknown; choose 'train' or 'test'")
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; give one of at least 0")
        self.config, self.seed, self.split = config, seed, split

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} is not in 0 .. {len(self) - 1}")
        return self.item(index)

    def item(self, index: int) -> dict[str, Any]:
        """Example ``index``, which is in range."""
        raise NotImplementedError


def is_integer(value: Any) -> bool:
    """Whether a value is an integer; a boolean is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def name_of(config: Any) -> str:
    """The name that gin files give a config."""
    return type(config).__name__.removesuffix("Config")


def check_integer(config: Any, field: str, least: int) -> None:
    """Refuse a field that is not an integer (TypeError), or is below ``least`` (ValueError)."""
    value = getattr(config, field)
    if not is_integer(value):
        raise TypeError(f"{name_of(config)}.{field}: {value!r} is not an integer; give one")
    if value < least:
        raise ValueError(f"{name_of(config)}.{field}: {value} is too small; give at least {least}")


def check_number(
    config: Any, field: str, fits: Callable[[float], bool], wanted: str, example: float
) -> None:
    """Refuse a field that is not a number (TypeError), or does not fit (ValueError)."""
    value = getattr(config, field)
    where = f"{name_of(config)}.{field}: {value!r}"
    if not isinstance(value, float) and not is_integer(value):
        raise TypeError(f"{where} is not a number; give one, such as {example}")
    if not fits(value):
        raise ValueError(f"{where} is out of range; give a number {wanted}")


def check_share(config: Any, field: str) -> None:
    """:func:`check_number` for a number from 0 up to, but not including, 1."""
    check_number(config, field, lambda value: 0 <= value < 1, "of at least 0 and below 1", 0.2)
