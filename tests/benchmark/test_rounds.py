"""Who runs when, and what becomes a sample."""

from bmojo.benchmark.cases import Case
from bmojo.benchmark.rounds import LONG, SETTLING, SHORTEST, orders, take_turns


class Clock:
    """Time that passes when a case says so."""

    now = 0.0

    def __call__(self):
        return self.now

    def takes(self, seconds, log=None, name=None):
        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


def test_orders_rotate_and_turn_round():
    assert list(orders(3, 4)) == [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0]]
    assert list(orders(0, 2)) == [[], []]


def test_every_case_takes_its_turn_in_every_round():
    clock, log = Clock(), []
    cases = [Case(name, "g", clock.takes(1.0, log, name)) for name in "abc"]
    done = []
    samples, calls = take_turns(cases, 4, done.append, clock)
    first = 3 * SETTLING
    assert log[:first] == [name for name in "abc" for _ in range(SETTLING)]
    rounds = [log[first + 3 * i : first + 3 + 3 * i] for i in range(4)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) == 4
    assert samples == [[1.0] * 4] * 3
    assert calls == [1, 1, 1]
    assert sum(done) == 15


def test_short_cases_are_repeated_within_a_sample():
    clock, log = Clock(), []
    case = Case("a", "g", clock.takes(SHORTEST / 4, log, "a"))
    ((sample,),), (count,) = take_turns([case], 1, clock=clock)
    assert count == 4
    assert abs(sample - SHORTEST / 4) < 1e-12, "a sample is the time of one call"
    assert len(log) == SETTLING + 4


def test_what_takes_long_or_begins_anew_does_not_settle():
    clock, log = Clock(), []
    long = Case("long", "g", clock.takes(LONG / 2, log, "long"))
    fresh = Case("fresh", "g", clock.takes(1.0, log, "fresh"), fresh=True)
    take_turns([long, fresh], 0, clock=clock)
    assert log == ["long", "long", "fresh"]


def test_units_and_times_taken_elsewhere():
    clock = Clock()
    layers = Case("layers", "g", clock.takes(6.0), units=3)
    told = Case("told", "g", lambda: 0.5, calls=1)
    samples, _ = take_turns([layers, told], 2, clock=clock)
    assert samples == [[2.0, 2.0], [0.5, 0.5]]
