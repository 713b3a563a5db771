"""Arrays of one's own, and what may be wrong with them."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from missing_bits import memory
from missing_bits.data import npy, npz
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


def test_a_fifth_of_each_class_is_for_testing_with_its_labels(load):
    """Of 15 and 5 images 3 and 1: drawn from all alike, a class could be missing."""
    labels = np.array([-7, -7, -7, 40] * 5)
    found = load(images=IMAGES, labels=labels)
    assert np.bincount(found.train.labels).tolist() == [12, 4]
    assert np.bincount(found.test.labels).tolist() == [3, 1]
    assert found.shape == (4, 5, 3)
    named = {image.tobytes(): label for image, label in zip(IMAGES, labels, strict=True)}
    for split in (found.train, found.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert str(named.pop(image.tobytes())) == found.classes[label]
    assert not named  # every image is in one of them


def said_of(capfd, load, **arrays):
    """The set of a file, and the line that is said of it."""
    capfd.readouterr()
    found = load(**arrays)
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    return found, line


def everything(found):
    """All images and the names of their classes, in an order of their own."""
    pairs = []
    for split in (found.train, found.test):
        names = [found.classes[label] for label in split.labels]
        pairs += zip([image.tobytes() for image in split.images], names, strict=True)
    return sorted(pairs)


UNIT = IMAGES / 255
MANY = np.arange(20) % 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": UNIT}, "images from float64 in 0 to 1"),
        ({"images": UNIT.astype(np.float32) * np.float32(1.0001)}, "images from float32 in 0 to 1"),
        ({"images": UNIT - 1e-4}, "images from float64 in 0 to 1"),
        ({"images": IMAGES - 0.4}, "images from float64 in 0 to 255"),
        ({"images": IMAGES.astype(np.float16)}, "images from float16 in 0 to 255"),
        ({"images": IMAGES.astype(">i8")}, "images from >i8 in 0 to 255"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "images from channels first"),
        (
            {"images": np.concatenate([IMAGES, IMAGES[..., :1]], axis=-1)},
            "images without their fourth channel, transparency",
        ),
        ({"images": np.asfortranarray(IMAGES)}, ""),
        ({"labels": np.array(["0", "1", "2"])[MANY]}, ""),
        ({"labels": np.array([b"0", b"1", b"2"])[MANY]}, ""),
        ({"labels": np.eye(3)[MANY]}, "labels from one-hot"),
        ({"labels": np.eye(3, dtype=bool)[MANY]}, "labels from one-hot"),
        ({"labels": MANY[:, None]}, "labels from a column"),
        ({"labels": MANY.astype(np.float32)}, "labels from float32"),
        ({"labels": MANY.astype(np.uint64)}, ""),
    ],
)
def test_what_can_only_mean_one_thing_is_converted_and_said(capfd, load, changed, said):
    expected = everything(load(images=IMAGES, labels=MANY))
    found, line = said_of(capfd, load, **{"images": IMAGES, "labels": MANY, **changed})
    assert found.train.images.dtype == np.uint8
    assert everything(found) == expected
    assert f"; converted: {said}." in line if said else "converted" not in line


def test_booleans_are_black_and_white_and_gray_images_have_a_channel(load):
    found = load(images=IMAGES[..., 0] > 99, labels=MANY > 0)
    assert found.shape == (4, 5, 1)
    assert found.classes == ("False", "True")
    pixels = np.sort(np.concatenate([found.train.images, found.test.images]), axis=None)
    assert (pixels == np.sort(255 * (IMAGES[..., 0] > 99), axis=None)).all()


def test_splits_are_scaled_alike(load):
    """Floats to 0.9 beside floats to 255 are dark, not bright."""
    dark = np.full((3, 4, 5, 3), 0.9)
    assert (load(images=IMAGES / 1.0, test_images=dark).test.images == 1).all()
    assert (load(images=UNIT, test_images=dark).test.images == 230).all()  # 229.5, to even


@pytest.mark.parametrize(
    ("images", "labels", "test_images", "test_labels"),
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_val", "Y_val"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("xtrain", "ytrain", "xtest", "ytest"),
        ("data", "target", "test_data", "test_target"),
        ("images-train", "labels-train", "images-dev", "labels-dev"),
    ],
)
def test_common_names_count(load, images, labels, test_images, test_labels):
    given = {images: IMAGES[:12], labels: MANY[:12]}
    given |= {test_images: IMAGES[12:], test_labels: MANY[12:]}
    found = load(**given)
    assert (found.train.images == IMAGES[:12]).all()
    assert (found.test.labels == MANY[12:]).all()


def test_arrays_without_names_and_alone_count(tmp_path):
    np.savez(tmp_path / "set.npz", IMAGES, MANY)
    assert len(npz.load(tmp_path / "set.npz").classes) == 3
    np.save(tmp_path / "plain.npy", IMAGES)
    assert len(npz.load(tmp_path / "plain.npy").train.images) == 16


def test_unlabeled_training_beside_a_labeled_test(capfd, load):
    found, line = said_of(
        capfd, load, images=IMAGES[:8], test_images=IMAGES[8:], test_labels=LABELS[8:]
    )
    assert found.train.labels is None
    assert (found.train.images == IMAGES[:8]).all()
    assert found.labeled is found.probe
    assert np.bincount(found.probe.labels).tolist() == [3, 3]
    assert np.bincount(found.test.labels).tolist() == [3, 3]
    both = np.concatenate([found.probe.images, found.test.images])
    assert len({image.tobytes() for image in both}) == 12
    assert "no labels: probes learn from half of each class, the other 6 of those to test" in line


def test_what_is_left_out_is_said(capfd, load):
    """Copies in a set that is divided, labels that tell nothing apart, splits without a use."""
    found, line = said_of(capfd, load, images=np.concatenate([IMAGES, IMAGES[:7]]))
    assert (len(found.train.images), len(found.test.images)) == (16, 4)
    assert "not used: 7 copies of other images." in line
    _, line = said_of(capfd, load, images=IMAGES[[0, 0, 0]])
    assert (
        "2 images of 4x5x3 to train on, 1 to test (a fifth); all images to train on are the" in line
    )
    for labels, why in ((np.arange(20), "no two images have the same"), (MANY * 0, "all are 0")):
        found, line = said_of(capfd, load, images=IMAGES, labels=labels)
        assert found.classes == ()
        assert f"not used: labels, as {why}." in line
    tested = {"test_images": IMAGES[:2], "val_images": IMAGES[:2], "val_labels": MANY[:2]}
    found, line = said_of(capfd, load, images=IMAGES, labels=MANY, **tested)
    assert len(found.test.labels) == 2
    assert "2 to test (those of val_images); " in line
    assert "; 2 of those to test are among those to train on; " in line
    assert "not used: test_images, which have no labels." in line
    tested = {"test_images": IMAGES[:2], "test_labels": np.array([0, 7])}
    _, line = said_of(capfd, load, images=IMAGES, labels=MANY, **tested)
    assert "4 classes (0, 1, 2, 7), " in line
    assert "; classes with nothing to train on: 7; classes with nothing to test: 1, 2; " in line


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
        ({"photos": IMAGES, "more": LABELS}, "holds photos, more but no images; expected an .npz"),
        ({}, "holds nothing but no images|not an .npz"),
        (
            {"x_train": IMAGES, "train_data": IMAGES},
            "holds x_train, train_data: which are the images is not clear; call them images",
        ),
        ({"images": NAN}, r"images hold NaN or infinity; .* images = np.nan_to_num\(images\)"),
        (
            {"images": IMAGES / 127.5 - 1},
            r"float64 from -1 to 1; .*images = \(\(images \+ 1\) \* 127.5\).round\(\).astype\('uint8'\)",
        ),
        ({"images": IMAGES // 16 / 1.0}, r"from 0 to 15; .*\(images - 0\) \* \(255 / 15\)"),
        (
            {"images": IMAGES.astype(np.uint16) * 257},
            r"images are uint16 from 0 to 65535; .* images = \(images // 257\).astype\('uint8'\)",
        ),
        (
            {"images": IMAGES.astype(np.int16) - 9},
            "images are int16 from -9 to 246; expected uint8",
        ),
        ({"images": IMAGES.astype(complex)}, "images are complex128; expected numbers"),
        ({"images": IMAGES.astype(str)}, "images are <U3; expected uint8"),
        ({"images": IMAGES[0, 0]}, r"images have shape \(5, 3\); .*reshape\(-1, 1, 1, 3\)"),
        (
            {"images": IMAGES[:, :4, :4].reshape(20, -1)},
            r"reshape\(-1, 4, 4, 3\), or .*\(-1, 3, 4, 4\)",
        ),
        ({"images": IMAGES[..., :2]}, r"C 1 or 3.*images = images\[..., :1\]"),
        ({"images": IMAGES[None]}, "C 1 or 3"),
        ({"images": IMAGES[:0]}, "there is no image in it"),
        ({"images": IMAGES[:, :0]}, "there is no image in it"),
        ({"images": IMAGES[:1]}, "holds one image"),
        ({"images": np.array([IMAGES[0], IMAGES[0, :2]], object)}, "holds Python objects"),
        ({"images": IMAGES, "labels": np.array(["a", None] * 10)}, "labels holds Python objects"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, "19 labels for 20 images"),
        ({"images": IMAGES, "labels": np.ones((20, 2))}, r"\(20, 2\).*labels.argmax\(axis=1\)"),
        (
            {"images": IMAGES, "labels": LABELS / 2},
            "labels are float64 .*not whole numbers; .*digitize",
        ),
        ({"images": IMAGES, "labels": LABELS * np.nan}, "labels are float64 .*not whole numbers"),
        ({"images": IMAGES, "labels": np.full(20, 0x110000, np.uint32).view("<U1")}, "no letters"),
        (
            {"images": IMAGES, "test_images": IMAGES[:, :3]},
            "test_images are 3x5x3, images are 4x5x3",
        ),
        ({"images": IMAGES / 1.0, "test_images": NAN}, "test_images hold NaN"),
        (
            {"images": IMAGES, "labels": LABELS, "test_labels": LABELS},
            "test_labels but no images for them",
        ),
        (
            {
                "images": IMAGES,
                "labels": LABELS,
                "test_images": IMAGES,
                "test_labels": LABELS.astype(str),
            },
            "labels are int64, test_labels are <U21; give both the same",
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


def written(path, **changed):
    """An array's file as NumPy writes it, but for what its header says."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (9, 9, 9), **changed}
    spelled = f"{header}\n".encode()
    path.write_bytes(
        b"\x93NUMPY\x01\x00" + len(spelled).to_bytes(2, "little") + spelled + bytes(9**3)
    )
    return path.read_bytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"shape": (10**6, 10**6)},
            r"claims to be uint8 of shape .*1,000,000,000,000 bytes, but 729",
        ),
        ({"shape": (10**60,)}, "claims to be uint8"),
        ({"shape": (-9, -9, 9)}, "claims to be uint8"),
        ({"shape": (9, 9)}, "81 bytes, but 729 are stored"),
        ({"shape": (float("nan"),)}, "damaged"),
        ({"shape": 9}, "damaged"),
        ({"descr": "|O"}, "Python objects, which are never read"),
        ({"descr": "<U0", "shape": (10**12,)}, "expected numbers"),
        ({"descr": [("a", "|u1")]}, "expected numbers"),
        ({"descr": "nonsense"}, "damaged"),
        ({"descr": "|V1000000000000"}, "expected numbers|damaged"),
        ({"order": 3}, "damaged"),
        ({"shape": (1,) * 2_000}, r"shape \(1, 1, .*\.\.\., 1 bytes, but 729 are stored"),
    ],
)
def test_claims_are_checked_before_anything_is_allocated(tmp_path, packed, changed, message):
    content = written(tmp_path / "set.npy", **changed)
    if packed:
        with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(UserError, match=message) as caught:
        npz.load(tmp_path / ("set.npz" if packed else "set.npy"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("letter", [b"\0", b"\1", b"(", b"e"])
def test_headers_that_no_parser_expects_are_told(tmp_path, letter):
    """NumPy hands some of them to Python's tokenizer, which raises errors of its own."""
    content = written(tmp_path / "set.npy")
    for place in (11, 20, 40, content.index(b"}")):
        (tmp_path / "set.npy").write_bytes(content[:place] + letter + content[place + 1 :])
        with pytest.raises(UserError, match="damaged") as caught:
            npz.load(tmp_path / "set.npy")
        assert "\n" not in str(caught.value)


def test_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    """Zeros, of which a file of some kilobytes holds many, are read only where there is room."""
    np.savez_compressed(tmp_path / "set.npz", images=np.zeros((500, 32, 32, 3), np.uint8))
    assert (tmp_path / "set.npz").stat().st_size < 10_000
    size = 500 * 32 * 32 * 3
    monkeypatch.setattr(memory, "available", lambda: 2 * size - 1)
    with pytest.raises(UserError, match=r"set.npz needs 0.0 GiB of memory, and 0.0 GiB are avail"):
        npz.load(tmp_path / "set.npz")
    monkeypatch.setattr(memory, "available", lambda: 2 * size)  # they are copied once: divided
    assert npz.load(tmp_path / "set.npz").train.images.shape == (400, 32, 32, 3)


@pytest.mark.parametrize(
    ("dtype", "copied", "bytes_each"),
    [(np.uint8, [], 1), (np.uint8, ["images"], 2), (bool, [], 2), (np.float32, ["images"], 6)],
)
def test_what_is_converted_or_copied_needs_that_much_more(
    tmp_path, monkeypatch, dtype, copied, bytes_each
):
    np.savez(tmp_path / "set.npz", images=np.zeros((10, 8, 8), dtype))
    monkeypatch.setattr(memory, "available", lambda: 640 * bytes_each - 1)
    with pytest.raises(UserError, match="of memory"):
        npy.read(tmp_path / "set.npz", ["images"], copied)
    monkeypatch.setattr(memory, "available", lambda: 640 * bytes_each)
    assert npy.read(tmp_path / "set.npz", ["images"], copied)["images"].shape == (10, 8, 8)


def test_dividing_needs_the_room_that_is_asked_for(tmp_path):
    """One copy beside the images themselves, as long as no image is one of another."""
    images = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images)
    tracemalloc.start()
    npz.load(tmp_path / "set.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 2 * images.nbytes <= peak < 2.2 * images.nbytes


def test_encryption_and_unknown_compression_are_told(tmp_path):
    """The first bit of the flags, and the method, in both headers of the only file in an archive."""
    np.savez(tmp_path / "set.npz", images=IMAGES)
    content = (tmp_path / "set.npz").read_bytes()
    central = content.index(b"PK\x01\x02")
    for places, value, message in (
        ((6, central + 8), 1, "images is encrypted"),
        ((8, central + 10), 99, "images is compressed by method 99, which NumPy does not use"),
    ):
        changed = bytearray(content)
        for place in places:
            changed[place] = value
        (tmp_path / "set.npz").write_bytes(changed)
        with pytest.raises(UserError, match=message):
            npz.load(tmp_path / "set.npz")
