"""Pixels as features: means of areas, and what they may cost."""

import numpy as np
import pytest

from missing_bits.eval import pixels
from missing_bits.eval.pixels import Pixels


class Decoded:
    """Images that are decoded when asked for; remembers how many were asked for at once."""

    def __init__(self, images):
        self.shape = images.shape
        self.asked = []
        self._images = images

    def __getitem__(self, indices):
        assert isinstance(indices, np.ndarray)
        self.asked.append(len(indices))
        return self._images[indices]


def test_small_images_are_their_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    found = pixels.of(images.shape, 10)
    assert found == Pixels(4, 6, False, 5, False)
    assert (found.name, str(found)) == ("pixels", "raw pixels")
    np.testing.assert_array_equal(
        found.features(images), (images.astype(np.float32) / 255).reshape(5, 72)
    )


def test_means_by_hand():
    """Of 4 x 3 pixels 2 x 2 means: two rows each, and one column and a half."""
    image = np.array([[30, 60, 90], [30, 60, 90], [0, 0, 255], [0, 0, 255]], np.uint8)
    features = Pixels(2, 2, True, 1, False).features(image[None, :, :, None])
    top = [(30 + 60 / 2) / 1.5, (60 / 2 + 90) / 1.5]
    bottom = [0, 255 / 1.5]
    np.testing.assert_allclose(255 * features, [[*top, *bottom]], rtol=1e-5)


def test_a_shrunk_image_keeps_its_mean_and_each_channel_its_own():
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    features = Pixels(7, 9, True, 3, False).features(images).reshape(3, 7, 9, 3)
    np.testing.assert_allclose(
        255 * features.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-5
    )


def test_images_are_read_few_at_once(monkeypatch):
    monkeypatch.setattr(pixels, "_AT_ONCE", 5 * 8 * 8)
    images = Decoded(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8))
    shrunk = Pixels(4, 4, True, 12, False)
    features = shrunk.features(images)
    assert images.asked == [5, 5, 2]
    monkeypatch.undo()
    np.testing.assert_array_equal(features, shrunk.features(images))


@pytest.mark.parametrize(
    ("shape", "classes", "expected", "name"),
    [
        # What fits stays as it is: Fashion-MNIST and CIFAR-10 do.
        ((60_000, 28, 28, 1), 10, Pixels(28, 28, False, 60_000, False), "pixels"),
        ((50_000, 32, 32, 3), 10, Pixels(32, 32, False, 50_000, False), "pixels"),
        ((5_000, 64, 64, 3), 10, Pixels(32, 32, True, 5_000, False), "pixels_32x32"),
        ((500, 64, 128, 3), 2, Pixels(22, 45, True, 500, False), "pixels_22x45"),
        # 50,000 x 100 x 429 are 2^31: 11 x 11 x 3 = 363 fit, 12 x 12 x 3 = 432 do not.
        ((50_000, 32, 32, 3), 100, Pixels(11, 11, True, 50_000, False), "pixels_11x11"),
        (
            (1_281_167, 224, 224, 3),
            1_000,
            Pixels(4, 4, True, 60_000, True),
            "pixels_4x4_of_60000",
        ),
        ((9, 1, 100_000, 1), 3, Pixels(1, 3_072, True, 9, False), "pixels_1x3072"),
    ],
)
def test_what_probes_get_is_bounded_and_its_name_tells(shape, classes, expected, name):
    found = pixels.of(shape, classes)
    assert found == expected
    assert found.name == name


def test_what_is_said_of_them():
    assert str(Pixels(32, 32, True, 500, False)) == "32 x 32 means of pixels"
    assert str(Pixels(4, 4, True, 60_000, True)) == (
        "4 x 4 means of pixels of 60,000 training images"
    )
