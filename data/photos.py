"""Patches of the color photographs that scikit-image and scikit-learn bring along: the set that needs no file.

10,000 patches of 32x32 pixels to train on and 2,000 to test, evenly over ten photographs; the label is the photograph.
Half-size copies give patches too. Left out: synthetic pictures, the second view of the motorcycle, gray pictures (a
lack of color would give them away), and patches with hardly any contrast (sky, the rim of the retina).

Train and test show different places: each photograph is divided into blocks of 96x96 pixels; test patches lie within
every fifth block, training patches keep 16 pixels away from those blocks.
"""

import importlib.util
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
_TRAIN, _TEST = 1_000, 200  # patches of a photograph


class Windows(NamedTuple):
    """Where patches lie in their photograph."""

    top: np.ndarray  # int [n], pixels
    left: np.ndarray  # int [n], pixels
    side: np.ndarray  # int [n], pixels: SIDE, or twice that for patches of the half-size copy


def load() -> ImageSet:
    """The patches."""
    train, test = [], []
    for name in PHOTOS:
        photo = read(name)
        for windows, patches in zip(places(photo), (train, test), strict=True):
            patches.append(cut(photo, windows))
    splits = [
        Split(
            np.concatenate(patches),
            np.repeat(np.arange(len(PHOTOS), dtype=np.int32), [len(p) for p in patches]),
        )
        for patches in (train, test)
    ]
    return in_memory(*splits, tuple(PHOTOS))


def read(name: str) -> np.ndarray:
    """A photograph [H, W, 3], its sides cut to multiples of the grid."""
    package, _, below = PHOTOS[name].partition("/")
    found = importlib.util.find_spec(package)  # without the seconds that importing it takes
    try:
        photo = np.asarray(
            Image.open(Path(found.submodule_search_locations[0]) / below).convert("RGB")
        )
    except (OSError, AttributeError) as error:
        raise UserError(
            f"--data=photos needs the picture {PHOTOS[name]}; install this project's requirements."
        ) from error
    height, width = (size // _CELL * _CELL for size in photo.shape[:2])
    return photo[:height, :width]


def places(photo: np.ndarray) -> tuple[Windows, Windows]:
    """Where training and test patches of a photograph [H, W, 3] lie."""
    pixels = photo.reshape(
        photo.shape[0] // _CELL, _CELL, photo.shape[1] // _CELL, _CELL, 3
    ).astype(np.float64)
    sums, squares = (
        np.einsum("iajbc->ijc", pixels),
        np.einsum("iajbc,iajbc->ijc", pixels, pixels),
    )  # [h, w, 3], of cells
    rows, columns = (
        np.arange(size) // (_BLOCK // _CELL) for size in sums.shape[:2]
    )  # blocks of cells
    tested = (rows[:, None] + 2 * columns[None, :]) % 5 == 2  # [h, w]
    near = np.pad(tested, MARGIN // _CELL)
    near = _slide(near, 2 * MARGIN // _CELL + 1).any(axis=(-2, -1))  # [h, w]
    found = ([], [])
    for side in (SIDE, 2 * SIDE):
        mean, square = (
            _slide(x, side // _CELL).sum(axis=(-2, -1)) / side**2 for x in (sums, squares)
        )
        varied = (square - np.square(mean)).max(axis=-1) >= _CONTRAST**2
        inside = _slide(tested, side // _CELL).all(axis=(-2, -1))
        outside = ~_slide(near, side // _CELL).any(axis=(-2, -1))
        for windows, allowed in zip(found, (outside & varied, inside & varied), strict=True):
            corners = np.argwhere(allowed) * _CELL
            windows.append(np.column_stack([corners, np.full(len(corners), side)]))
    return tuple(
        Windows(*np.concatenate(windows)[_evenly(sum(map(len, windows)), wanted)].T)
        for windows, wanted in zip(found, (_TRAIN, _TEST), strict=True)
    )


def cut(photo: np.ndarray, windows: Windows) -> np.ndarray:
    """The patches [n, SIDE, SIDE, 3] of a photograph [H, W, 3], uint8."""
    quarters = [photo[i::2, j::2].astype(np.float32) for i in (0, 1) for j in (0, 1)]
    half = np.rint(sum(quarters) / 4).astype(np.uint8)
    patches = []
    for top, left, side in zip(*windows, strict=True):
        shrink = side // SIDE
        source, top, left = (photo, half)[shrink - 1], top // shrink, left // shrink
        patches.append(source[top : top + SIDE, left : left + SIDE])
    return np.stack(patches)


def _slide(cells: np.ndarray, side: int) -> np.ndarray:
    """All windows of side x side cells of [h, w, ...], the cells of a window last."""
    return np.lib.stride_tricks.sliding_window_view(cells, (side, side), axis=(0, 1))


def _evenly(count: int, wanted: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, wanted)).astype(int)
