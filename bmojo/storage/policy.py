"""How long entries are kept: decay, reinforcement, capacity."""

import dataclasses
import math
from typing import Any

import numpy as np

from bmojo.errors import type_problem

__all__ = ["Policy"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """Bounds of a store, saved in it.

    An entry has strength 1 when it is written. Strength s at clock c and time t is, later,

        s * 2^(-(clock - c) / half_life_tokens) * 2^(-(now - t) / half_life_seconds),

    and each retrieval adds ``reinforcement`` to what is left. Retrieval ranks entries by inner
    product plus the logarithm of strength.

    Attributes:
      capacity: entries of a layer. Beyond it the weakest are forgotten when the store is
        published; of equally strong ones the least surprising, of these the oldest. None: any
        number.
      half_life_tokens: of strength, in tokens of the store's clock; None: it does not decay.
      half_life_seconds: the same in seconds.
      reinforcement: added to an entry's strength at each retrieval.
      floor: entries with less strength are forgotten when the store is compacted.

    Raises:
      ValueError: a field cannot be so.
    """

    capacity: int | None = None
    half_life_tokens: float | None = None
    half_life_seconds: float | None = None
    reinforcement: float = 0.0
    floor: float = 2**-10

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            problem = type_problem(value, field.type)
            if problem is None and value is not None:
                if value < 0 and field.name in ("reinforcement", "floor"):
                    problem = f"{value} is negative; give 0 or more"
                elif value <= 0 and field.name not in ("reinforcement", "floor"):
                    problem = f"{value} is not positive; give more, or None for no bound"
            if problem is not None:
                raise ValueError(f"Policy.{field.name}: {problem}")

    def decayed(self, log: Any, clock: Any, time: Any, clock_now: int, now: float) -> Any:
        """Natural logarithm of a strength now, from that at ``clock`` and ``time``."""
        if self.half_life_tokens is not None:
            log = log - math.log(2) / self.half_life_tokens * np.maximum(clock_now - clock, 0)
        if self.half_life_seconds is not None:
            log = log - math.log(2) / self.half_life_seconds * np.maximum(now - time, 0.0)
        return log
