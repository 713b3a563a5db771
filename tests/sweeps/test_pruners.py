"""When trials are given up, by hand."""

import pytest

from missing_bits.sweeps.pruners import halving, median


@pytest.mark.parametrize("larger", [True, False])
def test_halving_keeps_the_best_third_at_each_rung(larger):
    sign = 1 if larger else -1
    others = [{10: sign * score, 30: sign * score} for score in (1.0, 2.0, 3.0, 4.0, 5.0)]
    # Rungs of a budget of 90: 10 and 30. Of six, two go on: better than all but one.
    assert halving({10: sign * 4.5}, others, 90, larger) is None
    assert halving({10: sign * 3.5}, others, 90, larger) == 10
    assert halving({10: sign * 4.5, 30: sign * 1.5}, others, 90, larger) == 30
    assert halving({10: sign * 4.5, 30: sign * 4.5, 90: sign * 0.0}, others, 90, larger) is None


def test_halving_lets_the_first_go_on_and_asks_nothing_before_a_rung():
    assert halving({10: -5.0}, [], 90, True) is None
    assert halving({9: -5.0}, [{10: 1.0}] * 5, 90, True) is None


def test_halving_looks_at_the_first_evaluation_after_a_rung():
    others = [{12: 1.0}, {12: 2.0}, {8: 9.0}]  # the last has not reached it
    assert halving({11: 1.5}, others, 90, True) == 11
    assert halving({11: 2.5}, others, 90, True) is None


def test_equals_are_not_better():
    assert halving({10: 1.0}, [{10: 1.0}] * 5, 90, True) is None


@pytest.mark.parametrize("larger", [True, False])
def test_the_median_rule(larger):
    sign = 1 if larger else -1
    # Means up to step 20: 1, 2, 3, 4; their median is 2.5.
    others = [{10: sign * (m - 1.0), 20: sign * (m + 1.0), 50: sign * 99.0} for m in (1, 2, 3, 4)]
    assert median({20: sign * 2.4}, others, 100, larger) == 20
    assert median({20: sign * 2.6}, others, 100, larger) is None
    assert median({10: sign * 2.6, 20: sign * 0.0}, others, 100, larger) is None  # its best counts
    assert median({20: sign * 0.0}, others[:3], 100, larger) is None  # too few
    assert median({5: sign * 0.0}, others, 100, larger) is None  # too early
    assert median({100: sign * 0.0}, others, 100, larger) is None  # it is done
