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


def test_the_interval_of_another_statistic():
    """One seed far away moves the mean, and the middle half only where it is drawn three times."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8000.0]
    mean = statistics.estimate(values)
    middle = statistics.estimate(values, statistics.interquartile_mean)
    assert mean.value == 1003.5
    assert mean.high > 2000
    assert middle.value == pytest.approx((3 + 4 + 5 + 6) / 4)
    assert 1 <= middle.low < middle.value < middle.high < mean.high


def test_a_single_seed_has_no_interval():
    assert statistics.estimate([3.0]) == (3.0, None, None)
    assert statistics.difference([5.0], [3.0, 4.0]) == (1.5, None, None)
    assert statistics.improvement([5.0], [3.0, 6.0]) == (0.5, None, None)


def test_differences_by_hand():
    """Means (2 + 4 + 9) / 3 = 5 and (1 + 2) / 2 = 1.5."""
    found = statistics.difference([2.0, 4.0, 9.0], [1.0, 2.0])
    assert found.value == 3.5
    assert 0 <= found.low < 3.5 < found.high <= 8
    assert statistics.difference([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_pairs_that_move_together_have_a_narrower_difference():
    """The differences are 1, 1, 1, 2: their mean is 1.25, though the figures are far apart."""
    values = [11.0, 101.0, 501.0, 902.0]
    reference = [10.0, 100.0, 500.0, 900.0]
    paired = statistics.difference(values, reference, paired=True)
    unpaired = statistics.difference(values, reference)
    assert paired.value == unpaired.value == 1.25
    assert 1 <= paired.low <= 1.25 <= paired.high <= 2
    assert unpaired.low < -100
    assert unpaired.high > 100


@pytest.mark.parametrize(
    ("values", "reference", "better"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1, 2], [3, 4], 0.0),
        # Of nine pairs 5 > 1, 5 > 2, 3 > 1, 3 > 2, 2 > 1 are better, and 2 = 2 is half: 5.5.
        ([5, 3, 2], [1, 2, 9], 5.5 / 9),
        ([7, 7], [7, 7, 7], 0.5),
    ],
)
def test_probability_of_improvement_by_hand(values, reference, better):
    found = statistics.improvement(values, reference)
    assert found.value == pytest.approx(better)
    assert 0 <= found.low <= found.value <= found.high <= 1
    smaller = statistics.improvement(values, reference, larger_is_better=False)
    assert smaller.value == pytest.approx(1 - better)
    # What its interval resamples is the same statistic.
    x, y = np.array(values, float), np.array(reference, float)
    assert statistics._share_above(x, y) == pytest.approx(better)


def test_paired_improvement_counts_pairs():
    """3 > 1, 2 = 2, 1 < 3: one and a half of three."""
    found = statistics.improvement([3, 2, 1], [1, 2, 3], paired=True)
    assert found.value == pytest.approx(0.5)
    # Unpaired, every figure meets every other.
    assert statistics.improvement([4, 5, 6], [3, 9, 5], paired=True).value == pytest.approx(2 / 3)
    assert statistics.improvement([4, 5, 6], [3, 9, 5]).value == pytest.approx(
        (1 + 0 + 0 + 1 + 0 + 0.5 + 1 + 0 + 1) / 9
    )


def test_performance_profile_by_hand():
    """Two tasks of unequal numbers of seeds weigh the same."""
    profile = statistics.performance_profile([[0.2, 0.6], [1.0, 1.0, 0.5, 0.0]], [-1, 0, 0.5, 1])
    np.testing.assert_allclose(
        profile.share,
        [1, (1 + 3 / 4) / 2, (1 / 2 + 2 / 4) / 2, 0],  # above, not at, the threshold
    )
    assert np.all(profile.low <= profile.share)
    assert np.all(profile.share <= profile.high)
    assert profile.low[2] < profile.high[2]
    assert profile.low[0] == profile.high[0] == 1


def test_no_interval_of_what_is_not_finite():
    low, high = statistics.interval([1.0, float("inf"), 2.0])
    assert np.isnan(low)
    assert np.isnan(high)
