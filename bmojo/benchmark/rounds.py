"""Interleaved rounds of cases, and the quantiles of their samples.

All cases take turns, so that a change on the machine meets all of them alike.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from bmojo.benchmark.cases import Case
from bmojo.console import Progress, unseen

SHORTEST, MOST_CALLS = 0.005, 1000  # seconds: shorter calls are repeated within a sample
# Calls before the first sample, since the heap of a process grows in the first few; seconds after
# which no further one is begun.
SETTLING, LONG = 4, 30.0
NEAR = 0.1  # an exponent this near to a whole number is called by its name


def orders(count: int, rounds: int) -> Iterator[list[int]]:
    """The order of each round: rotated by one each time, and reversed in every other round."""
    for number in range(rounds):
        order = [(number + step) % count for step in range(count)]
        yield order[::-1] if number % 2 else order


def take_turns(
    cases: Sequence[Case],
    rounds: int,
    done: Progress = unseen,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[list[float]], list[int]]:
    """Run each case until it has settled, then all of them round by round.

    Returns:
      Seconds by case and round, for one unit of the case, and calls in a sample by case.
    """
    calls = []
    for case in cases:
        seconds = spent = _sample(case, 1, clock)
        for _ in range(SETTLING - 1 if not case.fresh else 0):
            if spent < LONG:
                seconds = _sample(case, 1, clock)
                spent += seconds
        enough = min(MOST_CALLS, max(1, math.ceil(SHORTEST / max(seconds, 1e-9))))
        calls.append(case.calls or enough)
        done(1)
    samples: list[list[float]] = [[] for _ in cases]
    for order in orders(len(cases), rounds):
        for index in order:
            case = cases[index]
            if case.pause:
                time.sleep(case.pause)
                case.run()  # the memory of a process that has waited is cold
            samples[index].append(_sample(case, calls[index], clock) / case.units)
            done(1)
    return samples, calls


def _sample(case: Case, calls: int, clock: Callable[[], float]) -> float:
    """Seconds of a call, a mean over ``calls``."""
    total = 0.0
    for _ in range(calls):
        began = clock()
        seconds = case.run()
        total += clock() - began if seconds is None else seconds
    return total / calls


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """Median, first and third quartile (low, high), smallest and largest value, and count."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int


def quantiles(samples: Sequence[float]) -> Quantiles:
    """Quantiles of samples, interpolated between two where they fall between.

    Raises:
      ValueError: there are no samples, or some are no finite numbers.
    """
    if not samples or not all(math.isfinite(sample) for sample in samples):
        raise ValueError(f"samples: needs finite numbers, got {list(samples)}")
    low = high = samples[0]
    if len(samples) > 1:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    median = statistics.median(samples)
    return Quantiles(median, low, high, min(samples), max(samples), len(samples))


def ratios(samples: Sequence[float], baseline: Sequence[float]) -> Quantiles:
    """Quantiles of the ratios of samples to those of the baseline taken in the same rounds."""
    return quantiles([one / other for one, other in zip(samples, baseline, strict=True)])


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The p of the power law ``value ~ size^p``, by least squares in logarithms.

    None if there are fewer than two sizes, or a value is not positive.
    """
    if len(set(sizes)) < 2 or min(values) <= 0:
        return None
    x, y = ([math.log(number) for number in numbers] for numbers in (sizes, values))
    return statistics.linear_regression(x, y).slope


def growth(power: float | None, of: str = "length") -> str:
    """An exponent in words: how something grows with ``of``."""
    if power is None:
        return f"unknown from one {of}"
    for whole, word in ((0, "constant"), (1, "linear"), (2, "quadratic")):
        if abs(power - whole) <= NEAR:
            return f"{word} ({of}^{power:.2f})"
    return f"{of}^{power:.2f}"
