"""The sets that need no file."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from missing_bits.data import digits, photos
from missing_bits.errors import UserError


@pytest.fixture(scope="module")
def photo_set():
    return photos.load()


def test_photos_are_balanced(photo_set):
    assert photo_set.train.images.shape == (10_000, 32, 32, 3)
    assert photo_set.test.images.shape == (2_000, 32, 32, 3)
    assert photo_set.train.images.dtype == photo_set.test.images.dtype == np.uint8
    assert (np.bincount(photo_set.train.labels) == 1_000).all()
    assert (np.bincount(photo_set.test.labels) == 200).all()
    assert len(photo_set.classes) == 10


def test_photos_are_the_same_every_time(photo_set):
    assert photos.load().digest == photo_set.digest


@pytest.mark.parametrize("name", photos.PHOTOS)
def test_no_pixel_is_in_a_training_and_a_test_patch(name):
    """Not even one within the margin of the other: paint the ones, look under the others."""
    photo = photos.read(name)
    train, test = photos.places(photo)
    painted = np.zeros(photo.shape[:2], bool)
    for top, left, side in zip(*test, strict=True):
        assert 0 <= top <= photo.shape[0] - side
        assert 0 <= left <= photo.shape[1] - side
        painted[top : top + side, left : left + side] = True
    m = photos.MARGIN
    for top, left, side in zip(*train, strict=True):
        assert 0 <= top <= photo.shape[0] - side
        assert 0 <= left <= photo.shape[1] - side
        assert not painted[
            max(top - m, 0) : top + side + m, max(left - m, 0) : left + side + m
        ].any()
    assert {*train.side, *test.side} == {photos.SIDE, 2 * photos.SIDE}  # both scales are there


def test_no_photo_patch_comes_twice(photo_set):
    patches = [*photo_set.train.images, *photo_set.test.images]
    assert len({patch.tobytes() for patch in patches}) == len(patches)


def test_patches_are_cut_where_they_lie():
    """Four pixels of 1, 2, 2, 5 make one of 2.5, rounded to the even 2, in the half-size copy."""
    photo = (
        np.tile(np.array([[1, 2], [2, 5]], np.uint8), (32, 32))[..., None]
        * np.ones(3, np.uint8)[None, None]
    )
    photo[40, 50] = 99
    whole, half = photos.cut(
        photo, photos.Windows(np.array([32, 0]), np.array([32, 0]), np.array([32, 64]))
    )
    assert (whole == photo[32:, 32:]).all()
    assert half[20, 25, 0] == (99 + 2 + 2 + 5) // 4  # 27
    half[20, 25] = 2
    assert (half == 2).all()


def test_a_missing_photo_says_what_to_install(monkeypatch):
    for place in ("skimage/data/nothing.png", "no_such_package/x.png"):
        monkeypatch.setitem(photos.PHOTOS, "cat", place)
        with pytest.raises(UserError, match=place):
            photos.read("cat")


def test_digits():
    found = digits.load()
    assert found.train.images.shape == (1_297, 16, 16, 1)
    assert found.test.images.shape == (500, 16, 16, 1)
    assert (found.train.images.min(), found.train.images.max()) == (0, 255)
    assert np.abs(np.bincount(found.test.labels) - 50).max() <= 2  # in proportion
    assert (
        np.bincount(found.train.labels) + np.bincount(found.test.labels)
        == np.bincount(load_digits().target)
    ).all()
    assert digits.load().digest == found.digest
    together = {image.tobytes() for split in (found.train, found.test) for image in split.images}
    assert len(together) == 1_797  # no digit is in both


def test_digits_are_enlarged_bilinearly():
    """A new pixel lies a quarter of an old one beside the nearest.

    It is 3/4 of that and 1/4 of the next, in each axis.
    """
    first = load_digits().images[0]  # levels 0 to 16
    found = digits.load()
    grown = [image for split in (found.train, found.test) for image in split.images[..., 0]]
    inner = 9 * first[2, 3] + 3 * first[2, 4] + 3 * first[3, 3] + first[3, 4]
    corner = np.rint(first[0, 0] * 255 / 16)
    expected = np.rint(inner / 16 * 255 / 16)
    assert any(image[5, 7] == expected and image[0, 0] == corner for image in grown)
