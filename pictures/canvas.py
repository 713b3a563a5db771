"""The look of all pictures: colors, tiles of images, a page with a title, saving.

The first colors are those of Okabe and Ito, which color-blind readers can tell apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    """Images as RGB, enlarged by a whole factor f to about `_TILE`: every pixel stays a square.

    Args:
      images: [n, H, W, C], uint8, or floats in [0, 1]; gray or RGB.

    Returns:
      [n, f H, f W, 3] uint8.
    """
    images = np.asarray(images)
    chex.assert_rank(images, 4)
    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    factor = max(1, round(_TILE / max(images.shape[1:3])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def blank(height: int, width: int) -> np.ndarray:
    """A white canvas [height, width, 3]."""
    return np.full((height, width, 3), 255, np.uint8)


def rgb(color: str) -> tuple[int, ...]:
    """A color such as #0072b2 as three bytes."""
    return tuple(bytes.fromhex(color[1:]))


def paste(page: np.ndarray, tile: np.ndarray, top: int, left: int) -> None:
    """Puts a tile [height, width, 3] into a page, its upper left corner at (top, left)."""
    height, width = tile.shape[:2]
    page[top : top + height, left : left + width] = tile


class Head(NamedTuple):
    """A text above a canvas."""

    x: int
    """Where it begins, in pixels from the left of the canvas."""
    text: str
    color: str


def save(canvas: np.ndarray, title: str, heads: Sequence[Head], path: Path) -> None:
    """Writes a canvas, pixel by pixel, below a title and a line of texts.

    Args:
      canvas: [height, width, 3] uint8.
      title: above all.
      heads: the texts, if any.
      path: the PNG file to write.
    """
    margin = 16
    top = 66 if heads else 44
    height = canvas.shape[0] + margin + top
    width = max(canvas.shape[1] + 2 * margin, _NARROWEST)
    drawn = figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=WHITE)
    drawn.figimage(canvas, margin, margin, origin="upper")
    drawn.text(margin / width, 1 - 14 / height, title, fontsize=12, color=INK, va="top")
    for head in heads:
        left = (margin + head.x) / width
        drawn.text(left, 1 - 42 / height, head.text, fontsize=9.5, color=head.color, va="top")
    drawn.savefig(path, dpi=DPI)


def figure(**settings: Any) -> "Figure":
    """A figure of matplotlib's of its own, which pyplot does not know.

    A notebook's pictures and backend stay as they are. Imported late, because it takes a while.
    """
    from matplotlib.figure import Figure

    return Figure(**settings)
