"""Arrays of one's own, and what may be wrong with them."""

import numpy as np
import pytest

from missing_bits.data import npz
from missing_bits.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), np.uint8)
LABELS = np.array([-7, 40] * 10)


@pytest.fixture
def load(tmp_path):
    def load(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return npz.load(tmp_path / "set.npz")

    return load


def test_a_split_of_its_own(load):
    found = load(
        images=IMAGES[:12], labels=LABELS[:12], test_images=IMAGES[12:], test_labels=LABELS[12:]
    )
    assert (found.train.images == IMAGES[:12]).all()
    assert (found.test.images == IMAGES[12:]).all()
    assert found.classes == ("-7", "40")
    assert found.train.labels.tolist() == [0, 1] * 6
    assert found.train.labels.dtype == found.test.labels.dtype == np.int32


def test_a_fifth_is_for_testing_with_its_labels(load):
    found = load(images=IMAGES, labels=LABELS)
    assert (len(found.train.labels), len(found.test.labels)) == (16, 4)
    assert found.shape == (4, 5, 3)
    named = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    for split in (found.train, found.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert str(named.pop(image.tobytes())) == found.classes[label]
    assert not named  # every image is in one of them


def test_without_labels_and_channels(load):
    found = load(images=IMAGES[..., 0])
    assert found.shape == (4, 5, 1)
    assert found.train.labels is found.test.labels is None
    assert found.classes == ()


def test_digest_is_the_content_s(load):
    first = load(images=IMAGES, labels=LABELS).digest
    assert load(images=IMAGES, labels=LABELS, unused=np.ones(3)).digest == first
    assert load(images=255 - IMAGES, labels=LABELS).digest != first
    assert load(images=IMAGES, labels=-LABELS).digest != first


NAN = np.full(IMAGES.shape, np.nan, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "holds pictures but no images"),
        ({}, "holds nothing but no images|not an .npz"),
        ({"images": IMAGES.astype(np.float32) / 255}, "images are float32; expected uint8"),
        ({"images": NAN}, "images hold NaN and are float32; expected uint8"),
        ({"images": IMAGES.astype(np.int64)}, "images are int64; expected uint8"),
        ({"images": IMAGES[0, 0]}, r"images have shape \(5, 3\); expected"),
        ({"images": IMAGES[..., :2]}, "C 1 or 3"),
        ({"images": IMAGES[None]}, "C 1 or 3"),
        ({"images": IMAGES[:0]}, "there is no image in it"),
        ({"images": IMAGES[:, :0]}, "there is no image in it"),
        ({"images": IMAGES[:1]}, "holds one image"),
        ({"images": np.array([IMAGES[0], IMAGES[0, :2]], object)}, "holds Python objects"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, "19 labels for 20 images"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, r"labels are int64 of shape \(20, 1\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels are float64"),
        ({"images": IMAGES, "labels": np.array(["a", "b"] * 10)}, "labels are <U1"),
        (
            {"images": IMAGES, "labels": np.full(20, 3)},
            "all labels are 3; give at least two classes",
        ),
        (
            {"images": IMAGES, "test_images": IMAGES[:, :3]},
            "test_images are 3x5x3, images are 4x5x3",
        ),
        ({"images": IMAGES, "test_images": NAN}, "test_images hold NaN"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES}, "labels but no test_labels"),
        (
            {"images": IMAGES, "test_images": IMAGES, "test_labels": LABELS},
            "test_labels but no labels",
        ),
        (
            {"images": IMAGES, "labels": LABELS, "test_labels": LABELS},
            "test_labels but no test_images",
        ),
        (
            {"images": IMAGES, "labels": LABELS, "test_images": IMAGES[1:], "test_labels": LABELS},
            "20 test_labels for 19 images",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(load, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        load(**arrays)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(UserError, match="There is no file"):
        npz.load(path)
    with pytest.raises(UserError, match="There is no file"):
        npz.load(tmp_path)
    path.write_text("not a zip")
    with pytest.raises(UserError, match=r"is not an .npz"):
        npz.load(path)
    np.savez_compressed(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        npz.load(path)
