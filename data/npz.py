"""Images of one's own, as arrays in an .npz file.

`images` uint8 [N, H, W, C] or [N, H, W], with C 1 or 3; optionally `labels`, integers [N]. For
testing, `test_images` and `test_labels`; without them a fifth of the images, at random but the same
in every run.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from missing_bits.data.images import ImageSet, Split, in_memory, one_in_five
from missing_bits.errors import UserError, require

_EXPECTED = "an .npz with images: uint8 [N, H, W, C] or [N, H, W], and perhaps labels: integers [N]"


def load(path: Path) -> ImageSet:
    """The images of a file.

    Raises:
      UserError: there is no such file, or not such arrays in it.
    """
    arrays = _read(path)
    require(
        "images" in arrays,
        f"{path} holds {', '.join(arrays) or 'nothing'} but no images; expected {_EXPECTED}.",
    )
    given = Split(_images(path, "images", arrays["images"]), arrays.get("labels"))
    for name in ("test_images", "test_labels"):
        ours = name.removeprefix("test_")
        if name in arrays:
            require(ours in arrays, f"{path} has {name} but no {ours}; give both or neither.")
    if "test_images" in arrays:
        train = given
        test_images = _images(path, "test_images", arrays["test_images"])
        test = Split(test_images, arrays.get("test_labels"))
        _check_that_splits_match(path, train, test)
    else:
        require(
            "test_labels" not in arrays,
            f"{path} has test_labels but no test_images; give both or neither.",
        )
        _check_labels(path, "labels", given)
        train, test = _divide(path, given)
    _check_labels(path, "labels", train)
    _check_labels(path, "test_labels", test)
    if train.labels is None:
        return in_memory(train, test, ())
    require(
        len(np.unique(train.labels)) > 1,
        f"{path}: all labels are {train.labels[0]}; "
        "give at least two classes, or no labels at all.",
    )
    classes = np.unique(np.concatenate([train.labels, test.labels]))
    train, test = (
        split._replace(labels=np.searchsorted(classes, split.labels).astype(np.int32))
        for split in (train, test)
    )
    return in_memory(train, test, tuple(map(str, classes)))


def _read(path: Path) -> dict[str, np.ndarray]:
    require(path.is_file(), f"There is no file {path}; expected {_EXPECTED}.")
    require(
        zipfile.is_zipfile(path),
        f"{path} is not an .npz file; expected {_EXPECTED}, as numpy.savez writes it.",
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = ("images", "labels", "test_images", "test_labels")
            return {name: file[name] if name in wanted else np.empty(0) for name in file.files}
    except ValueError as error:
        raise UserError(
            f"{path} holds Python objects or a damaged array ({error}); expected {_EXPECTED}."
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}. Write it anew.") from error


def _images(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Checks images; returns them as [N, H, W, C]."""
    if np.issubdtype(images.dtype, np.floating):
        nan = "hold NaN and " if np.isnan(images).any() else ""
        raise UserError(
            f"{path}: {name} {nan}are {images.dtype}; expected uint8, 0 to 255: "
            "scale, round and convert."
        )
    require(
        images.dtype == np.uint8, f"{path}: {name} are {images.dtype}; expected uint8, 0 to 255."
    )
    if images.ndim == 3:
        images = images[..., None]
    require(
        images.ndim == 4 and images.shape[3] in (1, 3),
        f"{path}: {name} have shape {images.shape}; "
        "expected [N, H, W, C] with C 1 or 3, or [N, H, W].",
    )
    require(images.size > 0, f"{path}: {name} have shape {images.shape}: there is no image in it.")
    return images


def _check_labels(path: Path, name: str, split: Split) -> None:
    labels = split.labels
    if labels is None:
        return
    require(
        labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer),
        f"{path}: {name} are {labels.dtype} of shape {labels.shape}; expected integers [N].",
    )
    count = len(split.images)
    require(
        len(labels) == count,
        f"{path}: {len(labels)} {name} for {count} images; give one for each.",
    )


def _check_that_splits_match(path: Path, train: Split, test: Split) -> None:
    require(
        train.images.shape[1:] == test.images.shape[1:],
        f"{path}: test_images are {_size(test.images)}, images are {_size(train.images)}; "
        "give both the same size.",
    )
    require(
        (train.labels is None) == (test.labels is None),
        f"{path} has labels but no test_labels; "
        "give both, or leave test_images out for a split of the images.",
    )


def _divide(path: Path, given: Split) -> tuple[Split, Split]:
    """Four fifths to train on, a fifth to test."""
    count = len(given.images)
    require(count > 1, f"{path} holds one image; give at least 2: some are for testing.")
    train, test = (
        Split(
            given.images[indices],
            None if given.labels is None else given.labels[indices],
        )
        for indices in one_in_five(count)
    )
    return train, test


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))
