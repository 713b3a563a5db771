"""Statistics over seeds."""

import numpy as np
import pytest

from missing_bits.eval import statistics


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 800], (3 + 4 + 5 + 6) / 4),  # two of eight are cut at each end
        ([800, 3, 7, 1, 5, 2, 6, 4], (3 + 4 + 5 + 6) / 4),  # in any order
        ([10, 20, 30, 400], (20 + 30) / 2),
        ([1, 2, 3, 40, 50], (2 + 3 + 40) / 3),  # a quarter of five is one, rounded down
        ([7], 7),
    ],
)
def test_interquartile_mean_by_hand(values, mean):
    assert statistics.interquartile_mean(values) == pytest.approx(mean)


def test_an_interval_covers_its_mean_and_narrows_with_confidence():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    low, high = statistics.interval(values)
    narrow_low, narrow_high = statistics.interval(values, 0.5)
    assert min(values) <= low < narrow_low < np.mean(values) < narrow_high < high <= max(values)
    assert statistics.interval(values) == (low, high), "the same at every call"


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 200 experiments with 20 normal seeds each, 90 % of the intervals should hold 0: 180.

    Twice the deviation of such a count is 2 sqrt(200 * 0.9 * 0.1), 8.5; a bootstrap of 20 figures
    covers a little less.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = statistics.interval(rng.normal(size=20), 0.9)
        covered += low <= 0 <= high
    assert 165 <= covered <= 192


@pytest.mark.parametrize("values", [[3.0], [500.0, 500.0, 500.0]])
def test_a_single_seed_and_equal_values_have_an_interval_of_no_width(values):
    assert statistics.interval(values) == (values[0], values[0])


def test_no_interval_of_what_is_not_finite():
    low, high = statistics.interval([1.0, float("inf"), 2.0])
    assert np.isnan(low)
    assert np.isnan(high)
