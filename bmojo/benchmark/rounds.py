"""Cases take turns, so that what changes on the machine meets all of them alike."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

from bmojo.benchmark.cases import Case

__all__ = ["orders", "take_turns"]

SHORTEST = 0.005
"""Seconds: calls that are shorter are repeated within a sample until they last as long."""
MOST_CALLS = 1000
SETTLING, LONG = 4, 30.0
"""Calls before the first sample, since the heap of a process grows in the first few; seconds after
which no further one is begun."""


def orders(count: int, rounds: int) -> Iterator[list[int]]:
    """The order of each round: one further on in each, and backwards in every other one.

    So that no case always follows the same one.
    """
    for number in range(rounds):
        first = number % count if count else 0
        order = [(first + step) % count for step in range(count)]
        yield order[::-1] if number % 2 else order


def take_turns(
    cases: Sequence[Case],
    rounds: int,
    done: Callable[[int], None] = lambda count: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[list[float]], list[int]]:
    """Run each case until it has settled, then all of them round by round.

    Args:
      cases: what to run.
      rounds: samples of each.
      done: called with 1 after each run.
      clock: the time in seconds.

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
        told = case.run()
        total += clock() - began if told is None else told
    return total / calls
