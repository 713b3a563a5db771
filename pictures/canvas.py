"""The look of all pictures: colors, tiles of images, a page with a title, saving."""

from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np

DPI = 100
WHITE = "#ffffff"
CARD = "#e9edf1"
INK = "#222222"
RIGHT = "#0072b2"
WRONG = "#d55e00"
COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#222222",
    "#b8a800",
    "#882255",
    "#999999",
)
MARKERS = "osD^Xv"  # each with all colors in turn
_TILE = 84  # pixels: about the side of an image after enlargement
_NARROWEST = 480  # pixels: room for the texts above


def tiles(images: jax.Array) -> np.ndarray:
    """Images [n, H, W, C] as RGB uint8 [n, f H, f W, 3], enlarged by a whole factor f to about `_TILE`."""
    images = np.asarray(images)
    chex.assert_rank(images, 4)
    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    factor = max(1, round(_TILE / max(images.shape[1:3])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def save(canvas: np.ndarray, title: str, heads: Sequence[tuple[int, str, str]], path: Path) -> None:
    """Writes a canvas [height, width, 3], pixel by pixel, below a title and a line of texts (x in pixels, color)."""
    margin, top = 16, 66 if heads else 44
    height, width = canvas.shape[0] + margin + top, max(canvas.shape[1] + 2 * margin, _NARROWEST)
    plt = pyplot()
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=WHITE)
    figure.figimage(canvas, margin, margin, origin="upper")
    figure.text(margin / width, 1 - 14 / height, title, fontsize=12, color=INK, va="top")
    for x, text, color in heads:
        figure.text(
            (margin + x) / width, 1 - 42 / height, text, fontsize=9.5, color=color, va="top"
        )
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
