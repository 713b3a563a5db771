"""Precision, recall, density and coverage on sets whose answers are known."""

import numpy as np
import pytest

from missing_bits.eval import neighborhoods

RNG = np.random.default_rng(0)


def test_by_hand_on_a_line():
    """Real 0, 1, 3 and 10; k = 1: balls of radii 1, 1, 2 and 7.

    Generated 0.5 lies in the balls of 0 and 1 (that of 3 begins at 1), 2 in those of 1 and 3, -30
    in none; their own balls reach 1.5, 1.5 and 30.5 far, and each real feature but 10 lies in one:
    10 is 8 from 2 and 40 from -30.
    """
    real = np.array([[0.0], [1.0], [3.0], [10.0]])
    generated = np.array([[0.5], [2.0], [-30.0]])
    found = neighborhoods.overlap(real, generated, near=1, dense=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx((2 + 2 + 0) / 3)
    assert found.coverage == pytest.approx(3 / 4)
    assert found.recall == pytest.approx(3 / 4)


def test_equal_distributions_overlap():
    real = RNG.normal(size=(1_500, 4))
    generated = RNG.normal(size=(1_500, 4))
    found = neighborhoods.overlap(real, generated)
    assert found.precision > 0.85
    assert found.recall > 0.85
    assert found.density == pytest.approx(1, abs=0.1)
    # In expectation 1 - 2^-k (Naeem et al. 2020, equation 8), k = 5.
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_a_set_far_away_overlaps_nowhere():
    real = RNG.normal(size=(50, 3))
    found = neighborhoods.overlap(real, real + 100)
    assert found == (0, 0, 0, 0)


def test_one_mode_of_two_is_precise_and_covers_half():
    """An equal number of each mode, ten deviations and more apart."""
    left = RNG.normal(size=(300, 2))
    right = RNG.normal(size=(300, 2)) + 50
    found = neighborhoods.overlap(np.concatenate([left, right]), RNG.normal(size=(600, 2)))
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.coverage == pytest.approx(0.5, abs=0.05)


def test_metrics_have_their_names():
    found = neighborhoods.Overlap(0.1, 0.2, 0.3, 0.4).metrics
    assert found["eval/precision"] == 0.1
    assert found["eval/coverage"] == 0.4
