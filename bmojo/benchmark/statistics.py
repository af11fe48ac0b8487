"""Medians and spreads of samples."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

__all__ = ["Spread", "exponent", "ratios", "spread"]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Where samples lie.

    Attributes:
      median: half of them are below.
      low: the first quartile.
      high: the third quartile.
      least: the smallest.
      most: the largest.
      count: how many there are.
    """

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated between samples where they fall between two.

    Raises:
      ValueError: there are no samples, or some are no finite numbers.
    """
    if not samples or not all(math.isfinite(sample) for sample in samples):
        raise ValueError(f"samples: needs finite numbers, got {list(samples)}")
    if len(samples) == 1:
        low = high = samples[0]
    else:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    median = statistics.median(samples)
    return Spread(median, low, high, min(samples), max(samples), len(samples))


def ratios(samples: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Spread of the ratios of samples to those of the baseline taken in the same rounds.

    What slows a whole round down falls out of its ratio.

    Raises:
      ValueError: there are more of one than of the other.
    """
    pairs = zip(samples, baseline, strict=True)
    return spread([one / other for one, other in pairs])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The p of the power law ``value ~ size^p`` by least squares in logarithms.

    None if there are fewer than two sizes, or a value is not positive.
    """
    if len(set(sizes)) < 2 or min(values) <= 0:
        return None
    x = [math.log(size) for size in sizes]
    y = [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope
