"""Patches of images by hand: numbers, places, images with others in their place, masks."""

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.augment import masking
from missing_bits.augment.patches import Patches

# Two images of 2 x 4 pixels and two channels, in patches of 2 x 2 pixels: pixel (i, j) is 10 i + j.
PATCHES = Patches.cut((2, 4, 2), 2)
PIXELS = 10.0 * jnp.arange(2)[:, None] + jnp.arange(4)[None, :]
IMAGES = jnp.stack([PIXELS, PIXELS + 100])[..., None] + jnp.array([0.0, 0.5]).reshape(1, 1, 1, 2)


def test_numbers_follow_from_the_shape_of_images():
    assert Patches(rows=1, columns=2, side=2, channels=2) == PATCHES
    assert PATCHES.count == 2
    assert PATCHES.numbers == 2 * 2 * 2


def test_patches_at_places_are_of_the_image_of_their_row():
    found = PATCHES.at(IMAGES, jnp.array([[1], [0]]))
    right_of_first = [2, 2.5, 3, 3.5, 12, 12.5, 13, 13.5]
    left_of_second = [100, 100.5, 101, 101.5, 110, 110.5, 111, 111.5]
    np.testing.assert_array_equal(found, [[right_of_first], [left_of_second]])
    np.testing.assert_array_equal(PATCHES.images(PATCHES.of(IMAGES)), IMAGES)


def test_replaced_patches_stand_where_they_should_and_all_else_stays():
    replaced = PATCHES.replaced(IMAGES, jnp.array([[1], [0]]), jnp.full((2, 1, 8), -1.0))
    expected = np.array(IMAGES)
    expected[0, :, 2:] = -1
    expected[1, :, :2] = -1
    np.testing.assert_array_equal(replaced, expected)


def test_masks_are_partitions_that_each_image_draws_by_its_own_key():
    grid = Patches(rows=3, columns=4, side=1, channels=1)
    keys = jax.random.split(jax.random.key(0), 6)
    masks = grid.masks(keys, 0.75)
    assert masks.kept.shape == (6, 3)
    for i in range(6):
        kept, hidden = masking.partition(keys[i], 12, 3)
        np.testing.assert_array_equal(masks.kept[i], kept)
        np.testing.assert_array_equal(masks.hidden[i], hidden)


def test_unchanged_patches_are_their_own_pixels():
    patches = PATCHES.of(IMAGES)
    same = masking.unchanged(patches)
    np.testing.assert_array_equal(same.values, patches)
    np.testing.assert_array_equal(same.values * same.std + same.mean, patches)
    assert same.mean.shape == same.std.shape == (2, 2, 1)
