"""Medians, spreads and exponents of samples that were made up."""

import math

import pytest

from bmojo.benchmark.rounds import exponent, growth, quantiles, ratios


def test_median_and_quartiles():
    found = quantiles([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)
    assert (found.least, found.most, found.count) == (1.0, 5.0, 5)
    found = quantiles([4.0, 1.0, 2.0, 3.0])
    assert (found.median, found.low, found.high) == (2.5, 1.75, 3.25)


def test_one_sample_has_no_quantiles():
    found = quantiles([2.0])
    assert found.low == found.median == found.high == 2.0


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_what_cannot_be_summed_up_is_refused(samples):
    with pytest.raises(ValueError, match="finite numbers"):
        quantiles(samples)


def test_ratios_are_taken_within_rounds():
    """A machine that is ten times slower in one round changes times, and no ratio."""
    baseline = [1.0, 10.0, 1.0]
    assert ratios([2.0, 20.0, 2.0], baseline).least == 2.0
    assert ratios([2.0, 20.0, 2.0], baseline).most == 2.0
    assert ratios([3.0, 10.0, 2.0], baseline).median == 2.0  # medians' ratio would be 3
    with pytest.raises(ValueError):
        ratios([1.0], baseline)


@pytest.mark.parametrize(
    ("power", "word"),
    [(0.0, "constant"), (1.0, "linear"), (2.0, "quadratic"), (1.5, "length^1.50")],
)
def test_growth_is_the_exponent_of_a_power_law(power, word):
    sizes = [64, 128, 512]
    found = exponent(sizes, [3.0 * size**power for size in sizes])
    assert found == pytest.approx(power)
    assert growth(found).startswith(word)


def test_growth_needs_two_sizes():
    assert exponent([64], [1.0]) is None
    assert exponent([64, 128], [0.0, 1.0]) is None
    assert "one length" in growth(None)
