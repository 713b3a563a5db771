"""Nearest images: themselves, by hand, and as many as asked for."""

import numpy as np
import pytest

from missing_bits.eval import nearest

IMAGES = np.random.default_rng(0).integers(0, 256, (700, 3, 3, 1), np.uint8)


def test_an_image_among_others_is_its_own_nearest():
    found = nearest.find(IMAGES[::2], IMAGES)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(0, 700, 2))
    np.testing.assert_array_equal(found.distances, 0)


def test_distances_are_root_mean_squares_and_ordered():
    """Of 0 to 51, 102 and 255 of 255 at one of two pixels: 0.2, 0.4 and 1 over sqrt 2."""
    black = np.zeros((1, 1, 2, 1), np.uint8)
    others = np.zeros((3, 1, 2, 1), np.uint8)
    others[:, 0, 1, 0] = (255, 51, 102)
    found = nearest.find(black, others, k=3)
    np.testing.assert_array_equal(found.indices, [[1, 2, 0]])
    assert found.distances[0] == pytest.approx(np.array([0.2, 0.4, 1]) / np.sqrt(2), rel=1e-6)
