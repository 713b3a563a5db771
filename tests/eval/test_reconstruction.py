"""Reconstructions: errors by hand, and principal components that are exact where they can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.data.images import Split, in_memory
from missing_bits.eval import reconstruction


@pytest.fixture(scope="module")
def plane():
    """Images on a plane: a mean and two directions."""
    rng = np.random.default_rng(0)
    directions = rng.uniform(-1, 1, (2, 36))
    images = 128 + rng.uniform(-60, 60, (80, 2)) @ directions
    split = Split(np.rint(images).astype(np.uint8).reshape(80, 6, 6, 1), None)
    return in_memory(split._replace(images=split.images[:60]), split, ())


def test_two_components_are_all_of_a_plane_and_one_is_not(plane):
    """Rounding to bytes leaves a variance of 1/12 of a step."""
    rounding = 1 / 12 / 255**2
    assert reconstruction.components_error(plane, 2) < 1.2 * rounding
    assert reconstruction.components_error(plane, 1) > 100 * rounding
    assert reconstruction.components_error(plane, 500) < rounding  # more than there are


def test_scores_are_mean_squares_over_all_test_images(plane, tmp_path):
    evaluation = reconstruction.evaluation(plane, lambda off, x: x + off, 1)
    key = jax.random.key(0)
    found = evaluation.scores(jnp.float32(0.1), key, False)
    assert found == {"eval/reconstruction_error": pytest.approx(0.01, rel=1e-4)}
    assert evaluation.headline == ("eval/reconstruction_error", False)
    expected = reconstruction.components_error(plane, 1)
    assert evaluation.baselines(key) == {"baseline/pca_reconstruction_error": expected}
    evaluation.pictures(jnp.float32(0), 0, tmp_path)
    assert (tmp_path / "reconstructions.png").exists()
