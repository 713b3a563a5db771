"""The one door to sets of images and to text: the option `--data`."""

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from missing_bits.data import files, points
from missing_bits.data.documents import Corpus
from missing_bits.data.images import ImageSet
from missing_bits.data.points import Points
from missing_bits.errors import require

_IMAGES = ("photos", "digits", "fashion_mnist", "cifar10", "imagenet", "npz:PATH", "folder:PATH")
_TEXTS = ("topics", "stdlib", "txt:PATH")
_IN_FILES = ("fashion_mnist", "cifar10", "imagenet")  # what --data-dir is for
_SIDES = {"imagenet": 224, "folder": 64}  # pixels to which pictures are resized
_LARGEST_SIDE = 4_096  # a picture then takes 50 MB


@dataclass(frozen=True)
class Images:
    """Which images to learn from."""

    data: str = "photos"
    """Images: photos, digits, fashion_mnist, cifar10, imagenet, npz:PATH, folder:PATH."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for a set that does not exist, or options that do not fit it.

        ImageNet has no usual place: the folder `data_dir` has subfolders `train` and `val`, with a
        subfolder of pictures for each class.

        Args:
          prefix: what stands before the names of these options on the command line.
        """
        require(
            not is_text(self.data),
            f"--{prefix}data={self.data} is text, not a set of images; "
            f"it may be {', '.join(_IMAGES)}.",
        )
        name, _ = _name_and_path(self.data, _IMAGES, "a set of images", prefix)
        require(
            not self.data_dir or name in _IN_FILES,
            f"--{prefix}data-dir={self.data_dir} is for {', '.join(_IN_FILES)}, "
            f"not for {self.data}.",
        )
        require(
            not self.image_size or name in _SIDES,
            f"--{prefix}image-size={self.image_size} is for imagenet and folder:PATH; "
            f"the images of {self.data} have a size of their own.",
        )
        require(
            self.image_size >= 0,
            f"--{prefix}image-size is {self.image_size}; "
            "it must be above 0, or 0 for the usual size.",
        )
        require(
            self.image_size <= _LARGEST_SIDE,
            f"--{prefix}image-size is {self.image_size}; it must be at most {_LARGEST_SIDE:,}.",
        )
        require(
            bool(self.data_dir) or name != "imagenet",
            f"--{prefix}data=imagenet needs --{prefix}data-dir: a folder with subfolders train and "
            "val, each with a subfolder of pictures for each of the 1,000 classes, as unpacked "
            "from ImageNet's archives.",
        )

    def load(self) -> ImageSet:
        """The set of images.

        Raises:
          UserError: as `check` does, or the set cannot be read.
        """
        self.check("")
        name, path = _name_and_path(self.data, _IMAGES, "a set of images")
        # Only what is asked for is imported: scikit-learn takes a second.
        if name in _SIDES:
            from missing_bits.data import folder

            root = files.at(path or self.data_dir)
            return folder.load(root, self.image_size or _SIDES[name])
        module = importlib.import_module(f"missing_bits.data.{name}")
        if name in _IN_FILES:
            return module.load(self.data_dir)
        if name == "npz":
            return module.load(files.at(path))
        return module.load()


@dataclass(frozen=True)
class ImagesOrPoints:
    """Which images, or points on a plane, to learn from."""

    data: str = "digits"
    """Images: photos, digits, fashion_mnist, cifar10, imagenet, npz:PATH, folder:PATH; or points:
    ring, of 8 Gaussians, grid, of 25."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""

    @property
    def are_points(self) -> bool:
        """Whether they are points."""
        return self.data in points.NAMES

    def check(self, prefix: str) -> None:
        """Raises `UserError` as `Images.check`; points have neither files nor a size."""
        if not self.are_points:
            if not is_text(self.data):
                known = (*_IMAGES, *points.NAMES)
                _name_and_path(self.data, known, "a set of images or points", prefix)
            Images(self.data, self.data_dir, self.image_size).check(prefix)
            return
        require(
            not self.data_dir,
            f"--{prefix}data-dir={self.data_dir} is for {', '.join(_IN_FILES)}, "
            f"not for {self.data}.",
        )
        require(
            not self.image_size,
            f"--{prefix}image-size={self.image_size} is for images, but --{prefix}data={self.data} "
            "are points.",
        )

    def load(self) -> ImageSet | Points:
        """The set of images, or the mixture that points are drawn from.

        Raises:
          UserError: as `check` does, or the set cannot be read.
        """
        self.check("")
        if self.are_points:
            return points.load(self.data)
        return Images(self.data, self.data_dir, self.image_size).load()


def check_text(data: str, prefix: str = "") -> None:
    """Raises `UserError` if `--data` names no text.

    Args:
      data: topics, stdlib or txt:PATH.
      prefix: what stands before the name of the option on the command line.
    """
    images = _name(data) in map(_name, _IMAGES)
    require(
        not images,
        f"--{prefix}data={data} is a set of images; here it must be text: {', '.join(_TEXTS)}.",
    )
    _name_and_path(data, _TEXTS, "text", prefix)


def load_text(data: str, split: Literal["blocks", "end"] = "blocks") -> Corpus:
    """The text that `--data` names.

    Args:
      data: topics, stdlib or txt:PATH.
      split: which tenths are held out: those of the text's own kind, or the last of a file.

    Raises:
      UserError: there is no such text, or it cannot be read.
    """
    check_text(data)
    name, path = _name_and_path(data, _TEXTS, "text")
    module = importlib.import_module(f"missing_bits.data.{name}")
    if name == "txt":
        return module.load(files.at(path), split)
    return module.load()


def is_text(data: str) -> bool:
    """Whether `--data` names text, going by what stands before the colon."""
    return _name(data) in map(_name, _TEXTS)


def _name(data: str) -> str:
    return data.partition(":")[0]


def _name_and_path(data: str, known: Sequence[str], what: str, prefix: str = "") -> tuple[str, str]:
    """Takes `--data` apart, whose form is one of the known."""
    name, colon, path = data.partition(":")
    forms = {_name(form): form for form in known}
    close = difflib.get_close_matches(name, forms, n=1, cutoff=0.0)[0]
    fits = name in forms and bool(colon) == (":" in forms[name])
    require(
        fits,
        f"--{prefix}data={data} is not {what}. Did you mean {forms[close]}? "
        f"It may be {', '.join(known)}.",
    )
    require(bool(path) or not colon, f"--{prefix}data={data} names no path; write {forms[close]}.")
    return name, path
