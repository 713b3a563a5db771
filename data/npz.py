"""Images of one's own, as arrays in an .npz file, or as one array in an .npy file.

`images` uint8 [N, H, W, C] or [N, H, W], with C 1 or 3; optionally `labels`, integers [N]. For
testing, `test_images` and `test_labels`; without them a fifth of each class, at random but the same
in every run, where of copies of an image the first alone counts. Where images to train on have no
labels but those to test on have, probes learn from half of each class of the latter.

Other common names count too (`x_train` and `y_train`, `train_images`, `data` and `target`, ...),
and what can only mean one thing is converted. A line says what was made of a file.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from missing_bits.data import convert, npy
from missing_bits.data.images import ImageSet, Split, divide, in_memory
from missing_bits.data.said import lacking, number, some
from missing_bits.errors import require
from missing_bits.notes import say

_EXPECTED = "an .npz with images: uint8 [N, H, W, C] or [N, H, W], and perhaps labels: integers [N]"
_KINDS = {
    "images": ("images", "image", "imgs", "img", "x", "data", "pictures"),
    "labels": ("labels", "label", "y", "targets", "target"),
}
_TRAIN = ("", "train", "training")
_TEST = ("test", "testing", "val", "valid", "validation", "dev")  # the first that is there counts
_LONGEST = 40  # characters of a name: what is between words may be anything
_BY_POSITION = {"arr_0": "images", "arr_1": "labels"}  # as numpy.savez names what has no name


class _Names(NamedTuple):
    """What arrays of one purpose are called in a file; None for those that are not there."""

    images: str | None
    labels: str | None


class _Role(NamedTuple):
    """What an array is for."""

    purpose: str  # one of _TRAIN and _TEST
    kind: str  # one of _KINDS


def load(path: Path) -> ImageSet:
    """The images of a file; says in a line what they are.

    Raises:
      UserError: there is no such file, or not such arrays in it.
    """
    names = npy.names(path)
    notes: list[str] = []  # what was converted
    unused: list[str] = []
    roles = _roles(names)
    learned = _find(path, roles, _TRAIN)
    tested = _of_test(path, roles, learned, unused)
    require(
        learned.images is not None,
        f"{path} holds {some(names) or 'nothing'} but no images; expected {_EXPECTED}.",
    )
    wanted = [name for name in (*learned, *tested) if name is not None]
    divided = []
    if tested.images is None:
        divided.append(learned.images)
    elif learned.labels is None:
        divided.append(tested.images)
    arrays = npy.read(path, wanted, divided)
    of_images = [name for name in (learned.images, tested.images) if name is not None]
    images = convert.images(path, {name: arrays[name] for name in of_images}, notes)

    def split(names: _Names) -> Split:
        mine = images[names.images]
        if names.labels is None:
            return Split(mine, None)
        given = arrays[names.labels]
        return Split(mine, convert.labels(path, names.labels, given, len(mine), notes))

    train = split(learned)
    probe = None
    shared = 0  # images to test on that are trained on too
    if tested.images is None:
        train, test, how = _divided(path, _with_useful_labels(train, unused), unused)
    else:
        test = split(tested)
        how = f"those of {tested.images}"
        _check_that_splits_match(path, learned, tested, train, test)
        seen = {*_hashes(train.images)}
        shared = sum(found in seen for found in _hashes(test.images))
        if train.labels is None:
            probe, test = _halves(_with_useful_labels(test, unused))
        elif len(np.unique(train.labels)) == 1:
            unused.append(f"labels, as all are {train.labels[0]}")
            train = Split(train.images, None)
            test = Split(test.images, None)
    classes = _classes((train, test, probe))
    loaded = in_memory(
        _numbered(train, classes),
        _numbered(test, classes),
        tuple(map(str, classes)),
        None if probe is None else _numbered(probe, classes),
    )
    _tell(path, loaded, how, shared, notes, unused)
    return loaded


def _roles(names: Sequence[str]) -> dict[str, _Role]:
    """What arrays are for by their names, such as ("train", "images") of "X_train"."""
    if {*names} <= _BY_POSITION.keys():
        return {name: _Role("", _BY_POSITION[name]) for name in names}
    found = {name: _role(name.lower()) for name in names}
    return {name: role for name, role in found.items() if role is not None}


def _role(name: str) -> _Role | None:
    joined = re.fullmatch(r"(x|y)(train|test|val|valid)", name)
    words = joined.groups() if joined else [word for word in re.split(r"[^a-z0-9]+", name) if word]
    purposes = [word for word in words if word in (*_TRAIN, *_TEST)]
    rest = [word for word in words if word not in purposes]
    kinds = [kind for kind, known in _KINDS.items() if rest and rest[0] in known]
    if len(rest) != 1 or len(purposes) > 1 or not kinds or len(name) > _LONGEST:
        return None
    return _Role(purposes[0] if purposes else "", kinds[0])


def _find(path: Path, roles: Mapping[str, _Role], purposes: Sequence[str]) -> _Names:
    """What images and labels for a purpose are called, which has several names."""
    found = {}
    for kind in _KINDS:
        own = kind if "" in purposes else f"test_{kind}"
        mine = [
            name for name, role in roles.items() if role.kind == kind and role.purpose in purposes
        ]
        require(
            len(mine) < 2 or own in mine,
            f"{path} holds {some(mine)}: which are the {kind} is not clear; call them {own}.",
        )
        found[kind] = own if own in mine else next(iter(mine), None)
    return _Names(**found)


def _of_test(path: Path, roles: Mapping[str, _Role], learned: _Names, unused: list[str]) -> _Names:
    """What is for testing: of several splits the first, with labels if those to train on have some.

    Notes names that are not used.
    """
    chosen = _Names(None, None)
    for purpose in _TEST:
        found = _find(path, roles, [purpose])
        require(
            found.images is not None or found.labels is None,
            f"{path} has {found.labels} but no images for them; give both or neither.",
        )
        if found.images is None:
            continue
        if learned.labels is not None and found.labels is None:
            unused.append(f"{found.images}, which have no labels")
        elif chosen.images is None:
            chosen = found
        else:
            unused.append(some(name for name in found if name is not None))
    return chosen


def _check_that_splits_match(
    path: Path, learned: _Names, tested: _Names, train: Split, test: Split
) -> None:
    require(
        train.images.shape[1:] == test.images.shape[1:],
        f"{path}: {tested.images} are {_size(test.images)}, {learned.images} are "
        f"{_size(train.images)}; give both the same size.",
    )
    if train.labels is not None:
        require(
            train.labels.dtype.kind == test.labels.dtype.kind,
            f"{path}: {learned.labels} are {train.labels.dtype}, {tested.labels} are "
            f"{test.labels.dtype}; give both the same labels.",
        )


def _with_useful_labels(split: Split, unused: list[str]) -> Split:
    """A split that is to be divided, without labels that tell nothing apart."""
    if split.labels is None:
        return split
    values, counts = np.unique(split.labels, return_counts=True)
    if len(values) == 1:
        unused.append(f"labels, as all are {values[0]}")
    elif counts.max() == 1:
        unused.append("labels, as no two images have the same")
    else:
        return split
    return Split(split.images, None)


def _divided(path: Path, given: Split, unused: list[str]) -> tuple[Split, Split, str]:
    """What is to train on, a fifth of each class that is to test, and how to call that."""
    count = len(given.images)
    require(count > 1, f"{path} holds one image; give at least 2: some are for testing.")
    firsts = _without_copies(given.images)
    if len(firsts) == 1:
        firsts = np.arange(count)  # one could not be divided
    if len(firsts) < count:
        unused.append(f"{count - len(firsts):,} copies of other images")
    parts = divide(_codes(given)[firsts], 5)
    kept = firsts[parts.kept]
    held_out = firsts[parts.held_out]
    require(
        len(held_out) > 0,
        f"{path}: no class has two images that differ: nothing can be held out to test on. Give "
        "more images, or none with labels.",
    )
    how = "a fifth" if given.labels is None else "a fifth of each class"
    return _taken(given, kept), _taken(given, held_out), how


def _halves(given: Split) -> tuple[Split | None, Split]:
    """Of a split to test on with labels, what probes learn from and what is left; or as it is."""
    if given.labels is None:
        return None, given
    kept, held_out = divide(_codes(given), 2)
    return _taken(given, kept), _taken(given, held_out)


def _without_copies(images: np.ndarray) -> np.ndarray:
    """The indices of the images [N, H, W, C] that no earlier one equals."""
    firsts: dict[bytes, int] = {}
    for index, found in enumerate(_hashes(images)):
        firsts.setdefault(found, index)
    return np.array(list(firsts.values()))


def _hashes(images: np.ndarray) -> list[bytes]:
    """A hash of each of the images [N, H, W, C]."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def _taken(split: Split, indices: np.ndarray) -> Split:
    labels = None if split.labels is None else split.labels[indices]
    return Split(split.images[indices], labels)


def _codes(split: Split) -> np.ndarray:
    """A number for each class, or the same for all images without labels."""
    if split.labels is None:
        return np.zeros(len(split.images), np.int32)
    return np.unique(split.labels, return_inverse=True)[1]


def _classes(splits: Sequence[Split | None]) -> np.ndarray:
    """All labels there are, sorted."""
    found = [split.labels for split in splits if split is not None and split.labels is not None]
    return np.unique(np.concatenate(found)) if found else np.empty(0)


def _numbered(split: Split, classes: np.ndarray) -> Split:
    """A split whose labels are indices of their classes."""
    if split.labels is None:
        return split
    return Split(split.images, np.searchsorted(classes, split.labels).astype(np.int32))


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))


def _tell(
    path: Path,
    loaded: ImageSet,
    how: str,
    shared: int,
    notes: Sequence[str],
    unused: Sequence[str],
) -> None:
    """Says in one line what was loaded, what was converted and what was left out."""
    classes = "no classes"
    if loaded.classes:
        count = number(len(loaded.classes), "class", "classes")
        classes = f"{count} ({some(loaded.classes, 5)})"
    told = [
        f"{path}: {classes}, {number(len(loaded.train.images), 'image')} of "
        f"{_size(loaded.train.images)} to train on, {len(loaded.test.images):,} to test ({how})"
    ]
    if loaded.probe is not None:
        told.append(
            "those to train on have no labels: probes learn from half of each class, the other "
            f"{len(loaded.probe.images):,} of those to test"
        )
    told += lacking(loaded)
    first = loaded.train.images[0]
    if all(np.array_equal(image, first) for image in loaded.train.images):
        told.append("all images to train on are the same")
    if shared:
        told.append(f"{shared:,} of those to test are among those to train on")
    if notes:
        told.append(f"converted: {', '.join(notes)}")
    if unused:
        told.append(f"not used: {'; '.join(unused)}")
    say("; ".join(told) + ".")
