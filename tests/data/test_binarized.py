"""Black and white of grays: drawn once, by their probability, and known by a hash."""

import dataclasses

import numpy as np
import pytest

from missing_bits.data import binarized
from missing_bits.data.images import ImageSet, Split, in_memory
from missing_bits.errors import UserError


@pytest.fixture(scope="module")
def grays():
    """Image i is of the gray 25 i."""
    levels = np.repeat(np.arange(11) * 25, 3).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (33, 40, 40, 1)).copy()
    split = Split(images, levels.astype(np.int32))
    return in_memory(split, split, ("a",))


def test_static_images_are_white_as_often_as_they_are_bright(grays):
    found = binarized.load(grays, "static")
    assert not binarized.are_binary(grays.train)
    for split in (found.train, found.test):
        assert binarized.are_binary(split)
        shares = split.images.mean(axis=(1, 2, 3)) / 255
        # Of 1,600 pixels: 4 deviations are at most 0.05.
        np.testing.assert_allclose(shares, grays.train.images[:, 0, 0, 0] / 255, atol=0.05)
    assert (found.train.images != found.test.images).any()
    assert found.train.labels is grays.train.labels


def test_images_for_probes_are_drawn_too(grays):
    """The judge of generated images learns from them, where those for training have no labels."""
    unlabeled = dataclasses.replace(grays, train=Split(grays.train.images, None), probe=grays.test)
    found = binarized.load(unlabeled, "static")
    assert binarized.are_binary(found.labeled)
    assert (found.labeled.images != found.test.images).any()


def test_the_draw_is_always_the_same_and_its_hash_is_its_own(grays):
    first = binarized.load(grays, "static")
    again = binarized.load(grays, "static")
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert first.digest == again.digest != grays.digest


def test_dynamic_training_images_stay_gray_and_test_images_are_the_static_ones(grays):
    found = binarized.load(grays, "dynamic")
    assert found.train is grays.train
    np.testing.assert_array_equal(found.test.images, binarized.load(grays, "static").test.images)
    assert binarized.load(grays, "none") is grays


def test_images_that_are_decoded_when_asked_for_are_refused(grays):
    class Lazy:
        shape = grays.train.images.shape

        def __getitem__(self, indices):
            return grays.train.images[indices]

    lazy = ImageSet(Split(Lazy(), None), grays.test, (), "")
    assert not binarized.are_binary(lazy.train)
    with pytest.raises(UserError) as refused:
        binarized.load(lazy, "static")
    assert "--binarize=static keeps what it draws" in str(refused.value)
