"""The one door to sets of images and to text: the option `--data`."""

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path

from missing_bits.data.documents import Corpus
from missing_bits.data.images import ImageSet
from missing_bits.errors import require

_IMAGES = ("photos", "digits", "fashion_mnist", "cifar10", "imagenet", "npz:PATH", "folder:PATH")
_TEXTS = ("topics", "stdlib", "txt:PATH")
_IN_FILES = ("fashion_mnist", "cifar10", "imagenet")  # what --data-dir is for
_SIDES = {"imagenet": 224, "folder": 64}  # pixels to which pictures are resized


def load(data: str, data_dir: str = "", image_size: int = 0) -> ImageSet:
    """The set of images that `--data` names.

    Args:
      data: photos, digits, fashion_mnist, cifar10, imagenet, npz:PATH or folder:PATH.
      data_dir: where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places. ImageNet has
        none: its folder has subfolders `train` and `val`, with one of pictures for each class below them.
      image_size: side to which the pictures of imagenet or of a folder are resized, in pixels; 0 for 224 and 64.

    Raises:
      UserError: there is no such set, it cannot be read, or an option does not fit it.
    """
    require(
        not is_text(data),
        f"--data={data} is text, not a set of images; it may be {', '.join(_IMAGES)}.",
    )
    name, path = _name_and_path(data, _IMAGES, "a set of images")
    require(
        not data_dir or name in _IN_FILES,
        f"--data-dir={data_dir} is for {', '.join(_IN_FILES)}, not for {data}.",
    )
    require(
        not image_size or name in _SIDES,
        f"--image-size={image_size} is for imagenet and folder:PATH; the images of {data} have a size of their own.",
    )
    require(
        image_size >= 0,
        f"--image-size is {image_size}; it must be above 0, or 0 for the usual size.",
    )
    require(
        bool(data_dir) or name != "imagenet",
        "--data=imagenet needs --data-dir: a folder with subfolders train and val, each with a subfolder of pictures "
        "for each of the 1,000 classes, as unpacked from ImageNet's archives.",
    )
    if name in _SIDES:
        from missing_bits.data import folder

        return folder.load(Path(path or data_dir).expanduser(), image_size or _SIDES[name])
    module = importlib.import_module(
        f"missing_bits.data.{name}"
    )  # only what is asked for: scikit-learn takes a second
    if name in _IN_FILES:
        return module.load(data_dir)
    return module.load(Path(path).expanduser()) if name == "npz" else module.load()


def load_text(data: str) -> Corpus:
    """The text that `--data` names.

    Args:
      data: topics, stdlib or txt:PATH.

    Raises:
      UserError: there is no such text, or it cannot be read.
    """
    images = _name(data) in map(_name, _IMAGES)
    require(
        not images, f"--data={data} is a set of images; here it must be text: {', '.join(_TEXTS)}."
    )
    name, path = _name_and_path(data, _TEXTS, "text")
    module = importlib.import_module(f"missing_bits.data.{name}")
    return module.load(Path(path).expanduser()) if name == "txt" else module.load()


def is_text(data: str) -> bool:
    """Whether `--data` names text, going by what stands before the colon."""
    return _name(data) in map(_name, _TEXTS)


def _name(data: str) -> str:
    return data.partition(":")[0]


def _name_and_path(data: str, known: Sequence[str], what: str) -> tuple[str, str]:
    """Takes `--data` apart, whose form is one of the known."""
    name, colon, path = data.partition(":")
    forms = {_name(form): form for form in known}
    close = difflib.get_close_matches(name, forms, n=1, cutoff=0.0)[0]
    fits = name in forms and bool(colon) == (":" in forms[name])
    require(
        fits,
        f"--data={data} is not {what}. Did you mean {forms[close]}? It may be {', '.join(known)}.",
    )
    require(bool(path) or not colon, f"--data={data} names no path; write {forms[close]}.")
    return name, path
