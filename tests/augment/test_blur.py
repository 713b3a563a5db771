"""Gaussian blur: torchvision's stored results, what it leaves alone, how wide it is."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.augment import blur

STORED = dict(np.load(pathlib.Path(__file__).with_name("reference.npz")))
gaussian = jax.jit(blur.gaussian)


def test_blur_equals_torchvision_edges_included():
    blurs = [name.split("/") for name in STORED if "/blur/" in name]
    assert len(blurs) == 10
    for image, _, sigma in blurs:
        found = gaussian(STORED[f"{image}/input"], jnp.float32(sigma))
        np.testing.assert_allclose(found, STORED[f"{image}/blur/{sigma}"], atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "kernel"),
    [(2, 2, 3), (28, 28, 3), (32, 32, 5), (96, 96, 11), (224, 224, 23), (224, 32, 5)],
)
def test_the_kernel_is_about_a_tenth_of_the_image_and_odd(height, width, kernel):
    assert 2 * blur.reach(height, width) + 1 == kernel


def test_by_hand():
    """Weights e^0, e^-0.5 on both sides, over 1 + 2 * 0.60653 = 2.21306: 0.45186 and 0.27407.

    At the left edge the pixel to the right counts twice.
    """
    x = jnp.zeros((1, 4, 4)).at[0, :, 1].set(1.0)
    expected = [2 * 0.27407, 0.45186, 0.27407, 0]
    np.testing.assert_allclose(gaussian(x, jnp.float32(1))[0], [expected] * 4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    sigma=st.floats(0.0625, 10, width=32),
    level=st.floats(0, 1, width=32),
    seed=st.integers(0, 1000),
)
def test_a_constant_stays_and_what_is_linear_stays_away_from_the_edges(sigma, level, seed):
    np.testing.assert_allclose(gaussian(np.full((2, 40, 43), level), sigma), level, atol=1e-6)
    y, x = np.mgrid[:40, :43].astype(np.float32)
    slopes = np.random.default_rng(seed).uniform(-1, 1, 2)
    ramp = np.stack([slopes[0] * y + slopes[1] * x, y - x]).astype(np.float32) / 80
    np.testing.assert_allclose(gaussian(ramp, sigma)[:, 2:-2, 2:-2], ramp[:, 2:-2, 2:-2], atol=1e-5)


def test_no_blur_at_all_for_a_narrow_kernel():
    x = STORED["odd/input"]
    np.testing.assert_array_equal(gaussian(x, jnp.float32(0.01)), x)
