"""Patches of photographs that scikit-image and scikit-learn bring along: they need no file.

10,000 patches of 32x32 pixels to train on and 2,000 to test, evenly over ten color photographs; the
label is the photograph. Half-size copies give patches too. Left out: synthetic pictures, the second
view of the motorcycle, gray pictures (a lack of color would give them away), and patches with
hardly any contrast (sky, the rim of the retina).

Train and test show different places: each photograph is divided into blocks of 96x96 pixels; test
patches lie within every fifth block, training patches keep 16 pixels away from those blocks.

Shapes: H, W of a photograph in pixels; h, w in cells of 8 by 8 pixels.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from missing_bits.data.images import ImageSet, Split, in_memory
from missing_bits.errors import UserError

PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
    "tissue": "skimage/data/ihc.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "temple": "sklearn/datasets/images/china.jpg",
}
SIDE = 32  # of a patch, in pixels
MARGIN = 16  # between what is trained on and what is tested, in pixels of the photograph
_CELL = 8  # grid on which patches and blocks lie, in pixels
_BLOCK = 96  # side of a block, in pixels
_CONTRAST = 4.0  # least deviation of the most varied channel, of 255
_TRAIN = 1_000  # patches of a photograph
_TEST = 200


class Windows(NamedTuple):
    """Where patches lie in their photograph."""

    top: np.ndarray  # int [n], pixels
    left: np.ndarray  # int [n], pixels
    side: np.ndarray  # int [n], pixels: SIDE, or twice that for patches of the half-size copy


class Places(NamedTuple):
    """Where the patches of a photograph lie."""

    train: Windows
    test: Windows


def load() -> ImageSet:
    """The patches."""
    photos = [read(name) for name in PHOTOS]
    found = [places(photo) for photo in photos]
    return in_memory(
        _split(photos, [place.train for place in found]),
        _split(photos, [place.test for place in found]),
        tuple(PHOTOS),
    )


def _split(photos: Sequence[np.ndarray], windows: Sequence[Windows]) -> Split:
    patches = [cut(photo, places) for photo, places in zip(photos, windows, strict=True)]
    counts = [len(some) for some in patches]
    labels = np.repeat(np.arange(len(photos), dtype=np.int32), counts)
    return Split(np.concatenate(patches), labels)


def read(name: str) -> np.ndarray:
    """A photograph [H, W, 3], its sides cut to multiples of the grid."""
    package, _, below = PHOTOS[name].partition("/")
    found = importlib.util.find_spec(package)  # without the seconds that importing it takes
    try:
        file = Path(found.submodule_search_locations[0]) / below
        photo = np.asarray(Image.open(file).convert("RGB"))
    except (OSError, AttributeError) as error:
        raise UserError(
            f"--data=photos needs the picture {PHOTOS[name]}; install this project's requirements."
        ) from error
    height = photo.shape[0] // _CELL * _CELL
    width = photo.shape[1] // _CELL * _CELL
    return photo[:height, :width]


def places(photo: np.ndarray) -> Places:
    """Where training and test patches of a photograph [H, W, 3] lie."""
    height = photo.shape[0] // _CELL
    width = photo.shape[1] // _CELL
    pixels = photo.reshape(height, _CELL, width, _CELL, 3).astype(np.float64)
    sums = np.einsum("iajbc->ijc", pixels)  # [h, w, 3]
    squares = np.einsum("iajbc,iajbc->ijc", pixels, pixels)  # [h, w, 3]

    cells = _BLOCK // _CELL  # of a block's side
    rows = np.arange(height)[:, None] // cells  # [h, 1]
    columns = np.arange(width)[None, :] // cells  # [1, w]
    tested = (rows + 2 * columns) % 5 == 2  # [h, w]
    margin = MARGIN // _CELL
    near = _slide(np.pad(tested, margin), 2 * margin + 1).any(axis=(-2, -1))  # [h, w]

    train = []
    test = []
    for side in (SIDE, 2 * SIDE):
        cells = side // _CELL
        mean = _slide(sums, cells).sum(axis=(-2, -1)) / side**2
        square = _slide(squares, cells).sum(axis=(-2, -1)) / side**2
        varied = (square - np.square(mean)).max(axis=-1) >= _CONTRAST**2
        inside = _slide(tested, cells).all(axis=(-2, -1))
        outside = ~_slide(near, cells).any(axis=(-2, -1))
        train.append(_windows(outside & varied, side))
        test.append(_windows(inside & varied, side))
    return Places(_some(np.concatenate(train), _TRAIN), _some(np.concatenate(test), _TEST))


def _windows(allowed: np.ndarray, side: int) -> np.ndarray:
    """Rows (top, left, side), in pixels, of the cells [h, w] where a window may begin."""
    corners = np.argwhere(allowed) * _CELL
    return np.column_stack([corners, np.full(len(corners), side)])


def _some(windows: np.ndarray, wanted: int) -> Windows:
    """As many of the windows [n, 3] as are wanted, evenly spaced."""
    count = len(windows)
    chosen = windows[np.linspace(0, count - 1, min(count, wanted)).astype(int)]
    return Windows(chosen[:, 0], chosen[:, 1], chosen[:, 2])


def cut(photo: np.ndarray, windows: Windows) -> np.ndarray:
    """The patches [n, SIDE, SIDE, 3] of a photograph [H, W, 3], uint8."""
    quarters = [photo[i::2, j::2].astype(np.float32) for i in (0, 1) for j in (0, 1)]
    half = np.rint(sum(quarters) / 4).astype(np.uint8)
    patches = []
    for top, left, side in zip(*windows, strict=True):
        if side == SIDE:
            patches.append(photo[top : top + SIDE, left : left + SIDE])
        else:
            patches.append(half[top // 2 : top // 2 + SIDE, left // 2 : left // 2 + SIDE])
    return np.stack(patches)


def _slide(cells: np.ndarray, side: int) -> np.ndarray:
    """All windows of side x side cells of [h, w, ...], the cells of a window last."""
    return np.lib.stride_tricks.sliding_window_view(cells, (side, side), axis=(0, 1))
