"""Moments and digests of sets."""

import numpy as np
import pytest

from missing_bits.data.images import ImageSet, Split, divide, in_memory


def test_moments_of_pixels_in_the_unit_interval():
    images = np.zeros((2, 1, 2, 3), np.uint8)
    images[..., 0] = [[[0, 255]], [[255, 0]]]  # mean 1/2, deviation 1/2
    images[..., 1] = [[[51, 51]], [[51, 51]]]  # mean 1/5, deviation 0: told as 1/255
    # Mean (4/5)/4 = 1/5, deviation (4/5) sqrt(1/4 * 3/4) = 0.2 sqrt(3).
    images[..., 2] = [[[0, 0]], [[0, 204]]]
    split = Split(images, None)
    mean, std = in_memory(split, split, ()).moments()
    assert mean == pytest.approx((0.5, 0.2, 0.2))
    assert std == pytest.approx((0.5, 1 / 255, 0.2 * 3**0.5))


def test_moments_over_more_images_than_are_taken_at_once():
    images = np.random.default_rng(0).integers(0, 256, (2_345, 2, 2, 1), np.uint8)
    split = Split(images, None)
    mean, std = in_memory(split, split, ()).moments()
    assert mean == pytest.approx((images.mean() / 255,))
    assert std == pytest.approx((images.std() / 255,))


def test_moments_of_lazy_images_read_few_of_them_and_once():
    class Lazy:
        shape = (100_000, 1, 1, 1)

        def __init__(self):
            self.asked = []

        def __getitem__(self, indices):
            self.asked += list(indices)
            return np.where(indices < 50_000, 0, 255).astype(np.uint8).reshape(-1, 1, 1, 1)

    lazy = Lazy()
    images = ImageSet(Split(lazy, None), Split(lazy, None), (), "")
    assert images.moments() == images.moments() == ((0.5,), (0.5,))
    assert len(lazy.asked) == 1_000
    assert (min(lazy.asked), max(lazy.asked)) == (0, 99_999)
    assert images.shape == (1, 1, 1)


def test_digest_tells_images_labels_and_splits_apart():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    labels = np.array([0, 1, 0, 1], np.int32)
    split = Split(images, labels)
    others = [
        Split(images.reshape(1, 2, 2, 1), labels),
        Split(images[::-1], labels),
        Split(images, labels[::-1]),
    ]
    others += [Split(images, None), Split(np.array(images), np.array(labels))]
    found = [
        in_memory(split, split, ()).digest,
        in_memory(split, Split(images[:3], labels[:3]), ()).digest,
    ]
    found += [in_memory(other, split, ()).digest for other in others]
    assert found[-1] == found[0]
    assert len(set(found)) == len(found) - 1


@pytest.mark.parametrize("count", [2, 4, 5, 99, 100])
def test_a_fifth_is_held_out_always_the_same(count):
    kept, held_out = divide(np.zeros(count), 5)
    assert sorted([*kept, *held_out]) == list(range(count))
    assert len(held_out) == max(1, count // 5)
    again = divide(np.zeros(count), 5)
    assert all((a == b).all() for a, b in zip(again, (kept, held_out), strict=True))


def test_each_class_is_divided_and_one_of_a_kind_is_kept():
    labels = np.array([3] * 10 + [5] * 2 + [9] + [7] * 21)
    kept, held_out = divide(labels, 5)
    assert np.bincount(labels[kept], minlength=10)[[3, 5, 9, 7]].tolist() == [8, 1, 1, 17]
    assert np.bincount(labels[held_out], minlength=10)[[3, 5, 9, 7]].tolist() == [2, 1, 0, 4]
