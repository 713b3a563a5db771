"""Picture files of any size in folders: a subfolder is a class.

If the folder has subfolders `train` and `test`, these are the splits, with the classes below them;
so are `training`, `testing`, `val`, `valid`, `validation` and `dev`, in any case. Otherwise a fifth
of each class is for testing: the files whose names have the smallest hashes; of copies of a file,
which could come to lie on both sides, the first alone counts. Pictures that lie in no class
subfolders, or all in the same, have no labels. Where those for training have none but those for
testing have, probes learn from half of each class of the latter. Pictures in a subfolder
`unlabeled` beside the others are trained on without labels, together with those for training, from
which probes learn.

A folder that holds nothing but another is looked through. Links are followed. A picture becomes
RGB, is turned as its camera says (EXIF), cut to its middle square and resized. Files are decoded
when asked for, by worker processes.
"""

import contextlib
import hashlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from missing_bits.data import files
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.said import lacking, number, printable, some
from missing_bits.data.workers import WorkerKilled, Workers
from missing_bits.errors import require
from missing_bits.notes import say

_ENDINGS = {
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
}
# No other is tried, whatever a file holds: for some, Pillow starts other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # of 8 bits a channel
_PIXELS = 89_478_485  # of a picture as it is decoded, at most: Pillow's own bound
_PROCESSES = min(8, os.cpu_count() or 1)
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation", "dev")  # the first that is there counts
_UNLABELED = ("unlabeled", "unlabelled")
# What undoes each orientation that EXIF knows, beside 1.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Files = dict[str, list[Path]]  # the files of each class; of "" without classes


class _Sets(NamedTuple):
    """Which files are for what, and how that is told."""

    train: Files
    test: Files
    unlabeled: list[Path]
    probe: Files  # empty where probes learn from `train`
    how: str  # where those for testing come from


class _Examined(NamedTuple):
    """What a file turned out to be."""

    hash: str
    reason: str  # why it cannot be used, or ""


def load(root: Path, image_size: int) -> ImageSet:
    """The pictures below a folder; says in a line what they are. Reads every file once.

    Args:
      root: the folder.
      image_size: side to which pictures are resized, in pixels.

    Raises:
      UserError: there is no such folder, it holds no pictures, or they are of one class.
    """
    require(
        os.path.isdir(root),
        f"There is no folder {root}; expected one with a subfolder of pictures for each class.",
    )
    tree = _Tree()
    root = tree.through(root)
    found = _sets(tree, root)
    everything = [*_all_of(found.train), *_all_of(found.test), *found.unlabeled]
    require(
        bool(everything),
        f"{root} holds no pictures ({', '.join(sorted(_ENDINGS))}); "
        "expected a subfolder of them for each class.",
    )
    examined = _examine_all(everything, image_size)
    found = _Sets(
        _usable(found.train, examined),
        _usable(found.test, examined),
        [path for path in found.unlabeled if not examined[path].reason],
        {},
        found.how,
    )
    if not found.test:
        found = _divided(tree, root, found, examined)
    _check(root, found, _skipped(root, examined))
    found = _with_probe(root, found)
    labeled = [*(found.probe or found.train).items(), *found.test.items()]
    names = sorted({name for name, paths in labeled if paths})
    digest = hashlib.sha256(f"{image_size}".encode())
    used = {*_all_of(found.train), *_all_of(found.test), *_all_of(found.probe), *found.unlabeled}
    for path in sorted(used):
        name = path.relative_to(root).as_posix()
        digest.update(f"\n{name} {examined[path].hash}".encode(errors="surrogateescape"))
    classes = () if names == [""] else tuple(map(printable, names))
    if found.probe:
        together = [*_all_of(found.train), *found.unlabeled]
        train = Split(Pictures(together, image_size), None)
        probe = _split(found.probe, names, image_size)
    else:
        train = _split(found.train, names, image_size)
        probe = None
    test = _split(found.test, names, image_size)
    loaded = ImageSet(train, test, classes, digest.hexdigest(), probe)
    _tell(root, loaded, found.how, tree, examined)
    return loaded


class Pictures:
    """Picture files as images [N, side, side, 3], decoded by worker processes when asked for."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths = tuple(paths)
        self.shape = (len(paths), side, side, 3)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images [n, side, side, 3], uint8, of indices [n].

        An image is gray, with a warning, where a file fails by now.
        """
        side = self.shape[1]
        paths = [str(self.paths[index]) for index in indices]
        # Images per message: few messages, yet all processes busy.
        size = max(1, len(paths) // (4 * _DECODERS.count))
        chunks = [paths[start : start + size] for start in range(0, len(paths), size)]
        answers = [_DECODERS.submit(chunk, side) for chunk in chunks]
        decoded: list[np.ndarray | None] = []
        killed = False
        for chunk, answer in zip(chunks, answers, strict=True):
            try:
                decoded += answer.result()
            except WorkerKilled:
                killed = True
                decoded += _try_decode(chunk, side)
        if killed:
            warnings.warn(
                "A process that decodes pictures was killed, perhaps for lack of memory.",
                stacklevel=2,
            )
        images = np.full((len(paths), *self.shape[1:]), 128, np.uint8)
        for place, image in enumerate(decoded):
            if image is None:  # one bad file should not end a long run
                warnings.warn(
                    f"{paths[place]} cannot be decoded any more: it is gray now.", stacklevel=2
                )
            else:
                images[place] = image
        return images


def decode(file: str, side: int) -> np.ndarray:
    """The middle square of a picture file, upright, as an image [side, side, 3], uint8."""
    with Image.open(file, formats=_FORMATS) as picture:
        # JPEG is decoded at an eighth, a quarter or a half if that is enough.
        picture.draft("RGB", (side, side))
        square = min(picture.size)
        left = (picture.width - square) / 2
        top = (picture.height - square) / 2
        box = (left, top, left + square, top + square)
        image = _rgb(picture).resize((side, side), Image.Resampling.BILINEAR, box)
        turn = _TURNS.get(_orientation(picture))
    # The square in the middle is the same whether it is turned before it is cut out or after.
    return np.asarray(image if turn is None else image.transpose(turn))


def _orientation(picture: Image.Image) -> int:
    """How the camera was held, as EXIF numbers it; 1, upright, where that cannot be read."""
    with contextlib.suppress(Exception):  # damaged tags raise anything
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture as RGB, what is transparent in it as it is stored."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _examine_all(paths: Sequence[Path], side: int) -> dict[Path, _Examined]:
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(_PROCESSES) as pool:
        found = pool.map(_examine, paths, itertools.repeat(side))
        return dict(zip(paths, found, strict=True))


def _examine(path: Path, side: int) -> _Examined:
    """The hash of a picture file, and what is wrong with it.

    The checksums of PNG and the end of JPEG are a good sign and cheap; anything else is decoded.
    """
    if os.path.islink(path) and not os.path.exists(path):
        return _Examined("", "links to nothing")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(max(0, size - 2))
            end = file.read()
    except OSError:
        return _Examined("", "unreadable")
    return _Examined(found, _fault(path, side, end) if size else "empty")


def _fault(path: Path, side: int, end: bytes) -> str:
    """Why a file whose last bytes are given cannot be used, or ""."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            picture.draft("RGB", (side, side))
            if picture.width * picture.height > _PIXELS:
                return "too large"
            if picture.mode not in _MODES:
                return "not of 8 bits a channel"
            if picture.format == "PNG":
                picture.verify()
            elif not (picture.format in ("JPEG", "MPO") and end == b"\xff\xd9"):
                picture.load()
    except Image.DecompressionBombError:
        return "too large"
    except UnidentifiedImageError:
        return "no pictures"
    except Exception:  # decoders raise anything
        return "damaged"
    return ""


class _Tree:
    """The pictures below folders, each gone through once, and what else was met there."""

    def __init__(self) -> None:
        self._pictures: dict[Path, list[Path]] = {}  # below folders
        self.others: set[Path] = set()  # files that are no pictures by their names
        self.closed: set[Path] = set()  # folders that cannot be opened
        self.empty: set[Path] = set()  # folders without pictures
        self.unused: list[str] = []  # how many pictures have no place, and why

    def below(self, folder: Path) -> list[Path]:
        """The pictures in a folder, at any depth."""
        if folder not in self._pictures:
            self._pictures[folder] = self._of(files.below(folder))
        return self._pictures[folder]

    def here(self, folder: Path) -> list[Path]:
        """The pictures in a folder itself."""
        return self._of(files.entries(folder))

    def folders(self, folder: Path) -> list[Path]:
        """The subfolders with pictures, at any depth."""
        found = files.entries(folder).folders
        self.empty |= {path for path in found if not self.below(path)}
        return [path for path in found if self.below(path)]

    def through(self, folder: Path) -> Path:
        """The folder, or what it holds where that is one other folder and no picture."""
        while not self.here(folder):
            folders = self.folders(folder)
            if len(folders) != 1:
                break
            folder = folders[0]
        return folder

    def classes(self, folder: Path) -> Files:
        """The pictures of each subfolder; of the class "" if there is none, or no more than one."""
        mine = self.here(folder)
        folders = self.folders(folder)
        if not folders:
            return {"": mine}
        if mine and len(folders) == 1:
            return {"": sorted([*mine, *self.below(folders[0])])}
        self.leave_out(
            mine, f"beside the class folders in {folder.name} (in a folder unlabeled they would be)"
        )
        return {path.name: self.below(path) for path in folders}

    def leave_out(self, pictures: Sequence[Path], where: str) -> None:
        """Notes pictures that are not used."""
        if pictures:
            self.unused.append(f"{len(pictures):,} {where}")

    def _of(self, found: files.Found) -> list[Path]:
        pictures = []
        for path in found.files:
            # Links to nothing are told as such; pipes and the like would never end.
            can_be_read = os.path.isfile(path) or not os.path.exists(path)
            if path.suffix.lower() in _ENDINGS and can_be_read:
                pictures.append(path)
            else:
                self.others.add(path)
        self.closed.update(found.closed)
        return pictures


def _named(folders: Iterable[Path], names: Sequence[str]) -> list[Path]:
    """The folders of these names in any case, in the order of the names."""
    found = [path for path in folders if path.name.lower() in names]
    return sorted(found, key=lambda path: names.index(path.name.lower()))


def _sets(tree: _Tree, root: Path) -> _Sets:
    """Which folders are splits, which are classes."""
    folders = tree.folders(root)
    train = _named(folders, _TRAIN)
    test = _named(folders, _TEST)
    unlabeled = _named(folders, _UNLABELED)
    others = [path for path in folders if path not in (*train, *test, *unlabeled)]
    if (train and (test or unlabeled)) or (unlabeled and test and not others):
        return _splits(tree, root, train, test, unlabeled)
    names = some(path.name for path in folders)
    require(
        bool(others) or len(folders) < 2,
        f"{root} has pictures to test on alone ({names}); give them a folder train beside them.",
    )
    if not (unlabeled and others):
        return _Sets(tree.classes(root), {}, [], {}, "")
    classes = {path.name: tree.below(path) for path in folders if path not in unlabeled}
    tree.leave_out(tree.here(root), f"in {root.name} itself")
    return _Sets(classes, {}, _together(tree, unlabeled), {}, "")


def _splits(
    tree: _Tree, root: Path, train: list[Path], test: list[Path], unlabeled: list[Path]
) -> _Sets:
    """Splits in folders of their own; of several for one purpose the first."""
    used = [*unlabeled]
    if not train:
        learned = {"": _together(tree, unlabeled)}
        unlabeled = []
    else:
        learned = tree.classes(train[0])
        used.append(train[0])
    tested: Files = {}
    how = ""
    for folder in test:
        classes = tree.classes(folder)
        # Without labels they test nothing if those for training have some.
        if not tested and ("" in learned or "" not in classes):
            tested = classes
            how = f"those of {folder.name}"
            used.append(folder)
    if len({*learned, *tested}) == 1:  # one folder in both is no class
        learned = {"": _all_of(learned)}
        tested = {"": _all_of(tested)} if tested else {}
    for folder in tree.folders(root):
        if folder not in used:
            tree.leave_out(tree.below(folder), f"in {folder.name}")
    tree.leave_out(tree.here(root), f"in {root.name} itself")
    return _Sets(learned, tested, _together(tree, unlabeled), {}, how)


def _together(tree: _Tree, folders: Sequence[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in tree.below(folder))


def _all_of(classes: Files) -> list[Path]:
    return [path for paths in classes.values() for path in paths]


def _usable(classes: Files, examined: dict[Path, _Examined]) -> Files:
    return {
        name: [path for path in paths if not examined[path].reason]
        for name, paths in classes.items()
    }


def _divided(tree: _Tree, root: Path, found: _Sets, examined: dict[Path, _Examined]) -> _Sets:
    """With a fifth of each class for testing, of the files without copies."""
    everything = _all_of(found.train)
    first: dict[str, Path] = {}
    for path in everything:
        first.setdefault(examined[path].hash, path)
    # Where all are the same, one could not be divided.
    firsts = {*(first.values() if len(first) > 1 else everything)}
    tree.leave_out([path for path in everything if path not in firsts], "copies of others")
    alone = {
        name: [path for path in paths if path in firsts] for name, paths in found.train.items()
    }
    train, test = _held_out(root, alone, 5)
    how = "a fifth" if alone.keys() == {""} else "a fifth of each class"
    return found._replace(train=train, test=test, how=how)


def _held_out(root: Path, classes: Files, parts: int) -> tuple[Files, Files]:
    """All but one in so many of each class, and that one: at least one, where there are two."""

    def name_hash(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest()

    kept = {}
    held_out = {}
    for name, paths in classes.items():
        shuffled = sorted(paths, key=name_hash)
        count = max(len(paths) // parts, int(len(paths) > 1))
        held_out[name] = sorted(shuffled[:count])
        kept[name] = sorted(shuffled[count:])
    return kept, held_out


def _check(root: Path, found: _Sets, skipped: str) -> None:
    why = f" ({skipped})" if skipped else ""
    learned = {**found.train, "unlabeled": found.unlabeled}
    for what, classes in (("train", learned), ("test", found.test)):
        require(
            any(classes.values()),
            f"{root} leaves no picture that can be decoded to {what} on{why}; give more.",
        )
    names = {name for name, paths in found.train.items() if paths}
    if found.train.keys() == {""}:
        return
    require(
        len(names) > 1,
        f"{root} has pictures that can be decoded of one class only, {min(names)!r}; give at least "
        "two classes, or put the pictures into the folder itself to go without labels.",
    )


def _with_probe(root: Path, found: _Sets) -> _Sets:
    """With labeled pictures for probes, where those for training have no labels, or not all."""
    if found.train.keys() != {""}:
        return found._replace(probe=found.train if found.unlabeled else {})
    train = {"": sorted([*found.train[""], *found.unlabeled])}
    found = found._replace(train=train, unlabeled=[])
    if found.test.keys() == {""}:
        return found
    probe, test = _held_out(root, found.test, 2)
    if any(test.values()) and len([paths for paths in probe.values() if paths]) > 1:
        how = f"half of each class, {found.how}"
        return found._replace(test=test, probe=probe, how=how)
    return found._replace(test={"": _all_of(found.test)})  # too few for their labels to count


def _split(classes: Files, names: list[str], side: int) -> Split:
    paths = []
    numbers = []
    for index, name in enumerate(names):
        mine = classes.get(name, [])
        paths += mine
        numbers += [index] * len(mine)
    labels = None if names == [""] else np.array(numbers, np.int32)
    return Split(Pictures(paths, side), labels)


def _skipped(root: Path, examined: dict[Path, _Examined]) -> str:
    """How many pictures cannot be used, and why; "" if all can."""
    bad = [path for path, found in examined.items() if found.reason]
    if not bad:
        return ""
    reasons = Counter(examined[path].reason for path in bad)
    each = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    name = printable(str(bad[0].relative_to(root)))
    return f"skipped {number(len(bad), 'picture')}: {each}, such as {name}"


def _tell(
    root: Path, loaded: ImageSet, how: str, tree: _Tree, examined: dict[Path, _Examined]
) -> None:
    """Says in one line what was loaded, and what was not."""
    classes = "no classes"
    if loaded.classes:
        count = number(len(loaded.classes), "class", "classes")
        classes = f"{count} ({some(loaded.classes, 5)})"
    learned = number(loaded.train.images.shape[0], "picture")
    told = [
        f"{printable(str(root))}: {classes}, {learned} to train on, "
        f"{loaded.test.images.shape[0]:,} to test ({how})"
    ]
    if loaded.probe is not None:
        told.append(
            f"those to train on have no labels: probes learn from {len(loaded.probe.labels):,} "
            "others that have"
        )
    told += lacking(loaded)
    hashes = {examined[path].hash for path in loaded.train.images.paths}
    shared = sum(examined[path].hash in hashes for path in loaded.test.images.paths)
    if len(hashes) == 1:
        told.append("all to train on are the same")
    if shared:
        told.append(f"{shared:,} of those to test are among those to train on")
    skipped = _skipped(root, examined)
    if skipped:
        told.append(skipped)
    if tree.unused:
        told.append(f"pictures that are not used: {', '.join(tree.unused)}")
    for paths, what in (
        (tree.closed, "folders that cannot be opened"),
        (tree.empty, "folders without pictures"),
        (tree.others, "files that are no pictures by their names"),
    ):
        if paths:
            names = some((path.name for path in sorted(paths)), 3)
            told.append(f"{what}: {len(paths):,} ({names})")
    say("; ".join(told) + ".")


def _try_decode(paths: Sequence[str], side: int) -> list[np.ndarray | None]:
    """The images of picture files, None for one that cannot be decoded."""
    images: list[np.ndarray | None] = []
    with warnings.catch_warnings(action="ignore"):  # what was examined needs no more words
        for path in paths:
            try:
                images.append(decode(path, side))
            except Exception:  # decoders raise anything
                images.append(None)
    return images


_DECODERS = Workers(_try_decode, _PROCESSES)
