"""The option --data."""

import itertools

import numpy as np
import pytest
from PIL import Image

from missing_bits.data.load import Images, load_text
from missing_bits.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("fashion-mnist",),
            r"--data=fashion-mnist is not a set.*mean fashion_mnist\?.*photos, digits.*folder:PATH",
        ),
        (("npz",), r"Did you mean npz:PATH\?"),
        (("folders:x",), r"Did you mean folder:PATH\?"),
        (("digits:x",), r"Did you mean digits\?"),
        (("",), "is not a set of images"),
        (("npz:",), "names no path; write npz:PATH"),
        (
            ("digits", "somewhere"),
            "--data-dir=somewhere is for fashion_mnist, cifar10, imagenet, not for digits",
        ),
        (("photos", "", 64), "--image-size=64 is for imagenet and folder:PATH"),
        (("folder:x", "", -1), "--image-size is -1"),
        (("folder:x", "", 100_000), "--image-size is 100000; it must be at most 4,096"),
        (("folder:no/such/folder",), "There is no folder no/such/folder"),
        (("npz:no/such.npz",), "There is no file no/such.npz"),
        (
            ("cifar10", "no/such/folder"),
            "CIFAR-10 is not in --data-dir=no/such/folder.*cifar-10-binary.tar.gz",
        ),
        (("fashion_mnist", "no/such/folder"), "no/such/folder is not a folder"),
        (("imagenet",), "--data=imagenet needs --data-dir.*train and val"),
        (("imagenet", "no/such/folder"), "There is no folder no/such/folder"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        Images(*arguments).load()
    assert "\n" not in str(caught.value)


def test_options_are_checked_before_anything_is_read():
    Images("cifar10", "no/such/folder").check("")
    Images("npz:no/such.npz").check("")
    Images("folder:no/such/folder", image_size=32).check("")
    with pytest.raises(UserError, match=r"--images\.data=topics is text, not a set of images"):
        Images("topics").check("images.")
    with pytest.raises(UserError, match=r"--images\.image-size=64 is for imagenet and folder:PATH"):
        Images(image_size=64).check("images.")
    with pytest.raises(UserError, match=r"--images\.data-dir=x is for .*, not for photos"):
        Images(data_dir="x").check("images.")


def test_a_path_may_hold_colons_and_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "a:b.npz", images=np.zeros((5, 2, 2), np.uint8))
    assert Images("npz:~/a:b.npz").load().shape == (2, 2, 1)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 5_000, "/dev/null"])
def test_paths_that_cannot_be_are_told(path):
    for kind in ("folder", "npz", "txt"):
        load = load_text if kind == "txt" else lambda data: Images(data).load()
        with pytest.raises(UserError, match="There is no f") as caught:
            load(f"{kind}:{path}")
        assert "\n" not in str(caught.value)


def test_digits_come_through_the_door():
    assert Images("digits").load().classes == tuple("0123456789")


def test_imagenet_is_a_folder_of_a_usual_size(tmp_path):
    for part, name in itertools.product(("train", "val"), ("n01", "n02")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(np.full((300, 250, 3), 7, np.uint8)).save(tmp_path / part / name / "a.png")
    found = Images("imagenet", str(tmp_path)).load()
    assert (found.shape, found.classes) == ((224, 224, 3), ("n01", "n02"))
    assert Images("imagenet", str(tmp_path), 96).load().shape == (96, 96, 3)
