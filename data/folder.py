"""Picture files of any size in folders: a subfolder is a class.

If PATH has subfolders `train` and `test` (or `val`), these are the splits, with the classes below them. Otherwise a
fifth of each class is for testing: the files whose names have the smallest hashes. Pictures that lie in PATH itself,
without class subfolders, have no labels. A picture becomes RGB, is cut to its middle square and resized. Files are
decoded when asked for, by worker processes.
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


def load(root: Path, image_size: int) -> ImageSet:
    """The pictures below a folder, resized to image_size x image_size x 3. Reads every file once, for the digest.

    Raises:
      UserError: there is no such folder, it holds no pictures, or they are of one class.
    """
    require(
        root.is_dir(),
        f"There is no folder {root}; expected one with a subfolder of pictures for each class.",
    )
    tested = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    has_splits = (root / "train").is_dir() and tested is not None
    found = [_classes(part) for part in ((root / "train", tested) if has_splits else (root,))]
    files = [path for classes in found for paths in classes.values() for path in paths]
    require(
        bool(files),
        f"{root} holds no pictures ({', '.join(sorted(_ENDINGS))}); expected a subfolder of them for each class.",
    )
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(_PROCESSES) as pool:
        hashes = dict(zip(files, pool.map(_examine, files), strict=True))
    _tell_skipped(root, [path for path in files if hashes[path] is None])
    found = [
        {name: [p for p in paths if hashes[p]] for name, paths in classes.items()}
        for classes in found
    ]
    train, test = found if has_splits else _divide(root, found[0])
    _check(root, train, test)
    names = sorted(name for name in train if train[name])
    digest = hashlib.sha256(f"{image_size}".encode())
    for path in sorted(
        path for classes in (train, test) for paths in classes.values() for path in paths
    ):
        digest.update(f"\n{path.relative_to(root).as_posix()} {hashes[path]}".encode())
    splits = (_split(classes, names, image_size) for classes in (train, test))
    return ImageSet(*splits, () if names == [""] else tuple(names), digest.hexdigest())


class Pictures:
    """Picture files as images [N, side, side, 3], decoded by worker processes when asked for."""

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self._files = [str(file) for file in files]
        self.shape = (len(files), side, side, 3)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The images [n, side, side, 3], uint8, of indices [n]; gray, with a warning, where a file fails by now."""
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
        picture.draft(
            "RGB", (side, side)
        )  # JPEG is decoded at an eighth, a quarter or a half if that is enough
        square = min(picture.size)
        left, top = ((size - square) / 2 for size in picture.size)
        image = _rgb(picture).resize(
            (side, side), Image.Resampling.BILINEAR, (left, top, left + square, top + square)
        )
    return np.asarray(image)


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture as RGB, what is transparent in it as it is stored."""
    return (picture.convert("RGBA") if picture.mode in ("P", "PA") else picture).convert("RGB")


def _examine(path: Path) -> str | None:
    """The hash of a picture file, or None if it cannot be decoded or has channels of other than 8 bits.

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


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class, sorted; of the class "" where they lie in the folder itself."""
    names = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    classes = {name: _pictures(sorted((folder / name).rglob("*"))) for name in names}
    classes = {name: files for name, files in classes.items() if files}
    return classes or {"": _pictures(sorted(folder.iterdir()))}


def _pictures(paths: Sequence[Path]) -> list[Path]:
    return [
        p
        for p in paths
        if p.suffix.lower() in _ENDINGS and not p.name.startswith(".") and p.is_file()
    ]


def _divide(
    root: Path, classes: dict[str, list[Path]]
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Parts the files of each class: four fifths, one fifth (at least one file, where there are two)."""
    train, test = {}, {}
    for name, files in classes.items():
        files = sorted(
            files,
            key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest(),
        )
        tested = max(len(files) // 5, int(len(files) > 1))
        train[name], test[name] = sorted(files[tested:]), sorted(files[:tested])
    return train, test


def _check(root: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> None:
    for what, classes in (("train", train), ("test", test)):
        require(
            any(classes.values()),
            f"{root} leaves no picture that can be decoded to {what} on; give more.",
        )
    names = {name for name, files in train.items() if files}
    for name, files in test.items():
        known = name in names or not files
        require(
            known,
            f"{root}: class {name!r} has pictures to test but none to train on; give it some, or remove it.",
        )
    require(
        names == {""} or len(names) > 1,
        f"{root} has one class only, {min(names)!r}; give a subfolder for each of at least two classes, or put the "
        "pictures into the folder itself to go without labels.",
    )


def _tell_skipped(root: Path, skipped: list[Path]) -> None:
    if skipped:
        warnings.warn(
            f"Skipped {len(skipped)} pictures in {root} that cannot be decoded as 8-bit images, such as "
            f"{skipped[0].relative_to(root)}.",
            stacklevel=3,
        )


def _split(classes: dict[str, list[Path]], names: list[str], side: int) -> Split:
    files = [path for name in names for path in classes.get(name, [])]
    numbers = [number for number, name in enumerate(names) for _ in classes.get(name, [])]
    return Split(Pictures(files, side), None if names == [""] else np.array(numbers, np.int32))


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
