"""Distortions of a discriminator's images: exact, apart from each other, open to gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.augment import differentiable

ALL = ("color", "translation", "cutout")
COUNT = 300
KEYS = jax.random.split(jax.random.key(0), COUNT)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (COUNT, 16, 8, 3)), jnp.float32)


def distorted(*distortions, images=IMAGES):
    return np.asarray(jax.jit(differentiable.distort, static_argnums=2)(KEYS, images, distortions))


def test_nothing_is_the_identity():
    np.testing.assert_array_equal(distorted(), IMAGES)


def test_translations_are_shifts_by_whole_pixels_and_bring_in_zeros():
    """Up to 2 rows and 1 column: each of 5 x 3 shifts comes about as often as the others."""
    found = distorted("translation")
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (1, 1), (0, 0)))
    counts = np.zeros((5, 3))
    for image, before in zip(found, padded, strict=True):
        same = [
            (i, j) for i, j in np.ndindex(5, 3) if (before[i : i + 16, j : j + 8] == image).all()
        ]
        assert len(same) == 1
        counts[same[0]] += 1
    assert abs(counts - COUNT / 15).max() < 4 * np.sqrt(COUNT / 15)


def test_cutouts_are_rectangles_of_at_most_half_of_each_side():
    found = distorted("cutout")
    gone = (found == 0).all(axis=3)
    np.testing.assert_array_equal(found[~gone], np.asarray(IMAGES)[~gone])
    rows = gone.any(axis=2).sum(axis=1)
    columns = gone.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(gone.sum(axis=(1, 2)), rows * columns)
    assert rows.max() == 8
    assert columns.max() == 4
    assert rows.min() < 8  # some reach beyond the image
    assert (gone.mean(axis=0) > 0.05).all()  # every place is met


def test_colors_keep_what_they_say():
    """Of a gray image nothing changes but its mean and the deviation from it."""
    gray = jnp.broadcast_to(IMAGES[..., :1], IMAGES.shape)
    found = distorted("color", images=gray)
    np.testing.assert_allclose(found[..., 0], found[..., 2], atol=1e-5)
    moved = found.mean(axis=(1, 2, 3)) - gray.mean(axis=(1, 2, 3))
    assert -0.5 <= moved.min() < -0.4
    assert 0.4 < moved.max() <= 0.5
    ratio = found.std(axis=(1, 2, 3)) / gray.std(axis=(1, 2, 3))
    assert 0.5 <= ratio.min() < 0.6
    assert 1.4 < ratio.max() <= 1.5
    colorful = distorted("color")
    saturation = colorful.std(axis=3).mean(axis=(1, 2)) / IMAGES.std(axis=3).mean(axis=(1, 2))
    assert saturation.min() < 0.2
    assert saturation.max() > 1.8


def test_an_image_depends_on_its_own_key_alone():
    some = differentiable.distort(KEYS[3:5], IMAGES[3:5], ALL)
    np.testing.assert_allclose(some, distorted(*ALL)[3:5], atol=1e-6)


@pytest.mark.parametrize("distortion", ALL)
def test_gradients_pass(distortion):
    """All but color are linear: the gradient of a sum of c x is the transpose, applied to c."""
    keys = KEYS[:4]
    x = IMAGES[:4]

    def total(x):
        return jnp.sum(differentiable.distort(keys, x, (distortion,)) * IMAGES[4:8])

    gradient = jax.grad(total)(x)
    step = IMAGES[8:12]
    slope = (total(x + 1e-2 * step) - total(x - 1e-2 * step)) / 2e-2
    assert jnp.sum(gradient * step) == pytest.approx(float(slope), rel=1e-2)
    assert jnp.abs(gradient).max() > 0
