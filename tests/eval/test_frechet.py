"""The Frechet distance on Gaussians whose distance is known."""

import numpy as np
import pytest

from missing_bits.eval import frechet
from missing_bits.eval.frechet import Gaussian


def test_commuting_covariances_by_hand():
    """Means 3 and 4 apart: 25. Deviations (1, 2) and (4, 2): (4 - 1)^2 + 0 = 9."""
    a = Gaussian(np.zeros(2), np.diag([1.0, 4.0]))
    b = Gaussian(np.array([3.0, 4.0]), np.diag([16.0, 4.0]))
    assert frechet.between(a, b) == pytest.approx(25 + 9)
    assert frechet.between(b, a) == pytest.approx(25 + 9)


def test_covariances_that_do_not_commute():
    """[[2, 1], [1, 2]] and diag(1, 9): the product has trace 20 and determinant 27, so that its
    root has trace sqrt(20 + 2 sqrt(27)); the distance is 4 + 10 - 2 sqrt(20 + 2 sqrt(27))."""
    a = Gaussian(np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]))
    b = Gaussian(np.zeros(2), np.diag([1.0, 9.0]))
    expected = 14 - 2 * np.sqrt(20 + 2 * np.sqrt(27))
    assert frechet.between(a, b) == pytest.approx(expected)


def test_moments_of_features():
    features = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]], np.float32)
    found = frechet.gaussian(features)
    np.testing.assert_allclose(found.mean, [2, 1])
    np.testing.assert_allclose(found.covariance, [[4, 0], [0, 0]])


def test_fewer_features_than_dimensions_and_a_large_mean():
    """Singular covariances; a shift by t moves the distance by |t|^2."""
    draw = np.random.default_rng(0).normal(size=(5, 20))
    assert frechet.distance(draw, draw) == pytest.approx(0, abs=1e-6)
    assert frechet.distance(draw + 1e4, draw + 1e4) == pytest.approx(0, abs=1e-6)
    assert frechet.distance(draw, draw + 2) == pytest.approx(4 * 20)


def test_samples_come_near_the_distance_of_their_distributions():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(20_000, 3))
    b = 2 * rng.normal(size=(20_000, 3)) + 1
    assert frechet.distance(a, b) == pytest.approx(3 * 1 + 3 * 1, rel=0.05)
