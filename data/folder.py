"""Picture files of any size in folders: a subfolder is a class.

If PATH has subfolders `train` and `test` (or `val`), these are the splits, with the classes below
them. Otherwise a fifth of each class is for testing: the files whose names have the smallest
hashes. Pictures that lie in PATH itself, without class subfolders, have no labels. A picture
becomes RGB, is cut to its middle square and resized. Files are decoded when asked for, by worker
processes.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from missing_bits.data.images import ImageSet, Split
from missing_bits.data.workers import WorkerKilled, Workers
from missing_bits.errors import require

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
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # of 8 bits a channel
_PROCESSES = min(8, os.cpu_count() or 1)

Files = dict[str, list[Path]]  # the files of each class


def load(root: Path, image_size: int) -> ImageSet:
    """The pictures below a folder. Reads every file once, for the digest.

    Args:
      root: the folder.
      image_size: side to which pictures are resized, in pixels.

    Raises:
      UserError: there is no such folder, it holds no pictures, or they are of one class.
    """
    require(
        root.is_dir(),
        f"There is no folder {root}; expected one with a subfolder of pictures for each class.",
    )
    test_folder = _test_folder(root)
    if test_folder is None:
        train = _classes(root)
        test = {}
    else:
        train = _classes(root / "train")
        test = _classes(test_folder)
    files = [*_all_of(train), *_all_of(test)]
    require(
        bool(files),
        f"{root} holds no pictures ({', '.join(sorted(_ENDINGS))}); "
        "expected a subfolder of them for each class.",
    )
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(_PROCESSES) as pool:
        hashes = dict(zip(files, pool.map(_examine, files), strict=True))
    _tell_skipped(root, [path for path in files if hashes[path] is None])
    train = _kept(train, hashes)
    test = _kept(test, hashes)
    if test_folder is None:
        train, test = _divide(root, train)
    _check(root, train, test)
    names = sorted(name for name in train if train[name])
    digest = hashlib.sha256(f"{image_size}".encode())
    for path in sorted([*_all_of(train), *_all_of(test)]):
        digest.update(f"\n{path.relative_to(root).as_posix()} {hashes[path]}".encode())
    return ImageSet(
        train=_split(train, names, image_size),
        test=_split(test, names, image_size),
        classes=() if names == [""] else tuple(names),
        digest=digest.hexdigest(),
    )


class Pictures:
    """Picture files as images [N, side, side, 3], decoded by worker processes when asked for."""

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self._files = [str(file) for file in files]
        self.shape = (len(files), side, side, 3)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images [n, side, side, 3], uint8, of indices [n].

        An image is gray, with a warning, where a file fails by now.
        """
        side = self.shape[1]
        files = [self._files[index] for index in indices]
        # Images per message: few messages, yet all processes busy.
        size = max(1, len(files) // (4 * _DECODERS.count))
        chunks = [files[start : start + size] for start in range(0, len(files), size)]
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
        images = np.full((len(files), *self.shape[1:]), 128, np.uint8)
        for number, image in enumerate(decoded):
            if image is None:  # one bad file should not end a long run
                warnings.warn(
                    f"{files[number]} cannot be decoded any more: it is gray now.", stacklevel=2
                )
            else:
                images[number] = image
        return images


def decode(file: str, side: int) -> np.ndarray:
    """The middle square of a picture file, as an image [side, side, 3], uint8."""
    with Image.open(file) as picture:
        # JPEG is decoded at an eighth, a quarter or a half if that is enough.
        picture.draft("RGB", (side, side))
        square = min(picture.size)
        left = (picture.width - square) / 2
        top = (picture.height - square) / 2
        box = (left, top, left + square, top + square)
        image = _rgb(picture).resize((side, side), Image.Resampling.BILINEAR, box)
    return np.asarray(image)


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture as RGB, what is transparent in it as it is stored."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _examine(path: Path) -> str | None:
    """The hash of a picture file; None if it cannot be decoded or has not 8 bits a channel.

    The checksums of PNG and the end of JPEG are a good sign and cheap; anything else is decoded.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode not in _MODES:
                return None
            if picture.format == "PNG":
                picture.verify()
            elif not (picture.format == "JPEG" and content.endswith(b"\xff\xd9")):
                picture.load()
    except Exception:  # decoders raise anything
        return None
    return hashlib.sha256(content).hexdigest()


def _test_folder(root: Path) -> Path | None:
    """The folder of what is to test on, where there is one beside one to train on."""
    if (root / "train").is_dir():
        for name in ("test", "val"):
            if (root / name).is_dir():
                return root / name
    return None


def _classes(folder: Path) -> Files:
    """The picture files of each class, sorted; of the class "" if they lie in the folder itself."""
    names = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    classes = {name: _pictures(sorted((folder / name).rglob("*"))) for name in names}
    classes = {name: files for name, files in classes.items() if files}
    return classes or {"": _pictures(sorted(folder.iterdir()))}


def _pictures(paths: Sequence[Path]) -> list[Path]:
    return [
        path
        for path in paths
        if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and path.is_file()
    ]


def _all_of(classes: Files) -> list[Path]:
    return [path for files in classes.values() for path in files]


def _kept(classes: Files, hashes: dict[Path, str | None]) -> Files:
    """The files that have a hash: those that can be decoded."""
    return {name: [path for path in files if hashes[path]] for name, files in classes.items()}


def _divide(root: Path, classes: Files) -> tuple[Files, Files]:
    """Four fifths of each class, and one fifth (at least one file, where there are two)."""

    def name_hash(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()

    train = {}
    test = {}
    for name, files in classes.items():
        shuffled = sorted(files, key=name_hash)
        tested = max(len(files) // 5, int(len(files) > 1))
        test[name] = sorted(shuffled[:tested])
        train[name] = sorted(shuffled[tested:])
    return train, test


def _check(root: Path, train: Files, test: Files) -> None:
    for what, classes in (("train", train), ("test", test)):
        require(
            any(classes.values()),
            f"{root} leaves no picture that can be decoded to {what} on; give more.",
        )
    names = {name for name, files in train.items() if files}
    for name, files in test.items():
        require(
            name in names or not files,
            f"{root}: class {name!r} has pictures to test but none to train on; "
            "give it some, or remove it.",
        )
    require(
        names == {""} or len(names) > 1,
        f"{root} has one class only, {min(names)!r}; give a subfolder for each of at least two "
        "classes, or put the pictures into the folder itself to go without labels.",
    )


def _tell_skipped(root: Path, skipped: list[Path]) -> None:
    if skipped:
        warnings.warn(
            f"Skipped {len(skipped)} pictures in {root} that cannot be decoded as 8-bit images, "
            f"such as {skipped[0].relative_to(root)}.",
            stacklevel=3,
        )


def _split(classes: Files, names: list[str], side: int) -> Split:
    files = []
    numbers = []
    for number, name in enumerate(names):
        mine = classes.get(name, [])
        files += mine
        numbers += [number] * len(mine)
    labels = None if names == [""] else np.array(numbers, np.int32)
    return Split(Pictures(files, side), labels)


def _try_decode(files: Sequence[str], side: int) -> list[np.ndarray | None]:
    """The images of picture files, None for one that cannot be decoded."""
    images: list[np.ndarray | None] = []
    for file in files:
        try:
            images.append(decode(file, side))
        except Exception:  # decoders raise anything
            images.append(None)
    return images


_DECODERS = Workers(_try_decode, _PROCESSES)
