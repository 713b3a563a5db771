"""The look of all pictures: colors, tiles of images, a page with a title, saving.

The first colors are those of Okabe and Ito, which color-blind readers can tell apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import numpy as np

from missing_bits.numeric import ceil_div

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
_LARGEST = 168  # pixels: the longer side of an image above which it is made smaller
_PATHS = ("txt", "csv", "npz", "folder")  # what stands before the path of a user's data
_NAME = 40  # characters of such a name in a title
_NARROWEST = 480  # pixels: room for the texts above


def tiles(images: jax.Array) -> np.ndarray:
    """Images as RGB, enlarged by a whole factor f to about `_TILE`: every pixel stays a square.

    Of large images, f x f pixels become one instead, their mean; what is left at the lower and
    right edges is cut off.

    Args:
      images: [n, H, W, C], uint8, or floats in [0, 1]; gray or RGB.

    Returns:
      [n, f H, f W, 3] uint8, or [n, H // f, W // f, 3].
    """
    images = np.asarray(images)
    chex.assert_rank(images, 4)
    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    longer = max(images.shape[1:3])
    if longer > _LARGEST:
        images = _smaller(images, min(ceil_div(longer, _LARGEST), *images.shape[1:3]))
    else:
        factor = max(1, round(_TILE / longer))
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _smaller(images: np.ndarray, factor: int) -> np.ndarray:
    """Means [n, H // factor, W // factor, C] of squares of bytes [n, H, W, C]."""
    count, height, width, channels = images.shape
    rows = height // factor
    columns = width // factor
    images = images[:, : rows * factor, : columns * factor]
    squares = images.reshape(count, rows, factor, columns, factor, channels)
    return np.round(squares.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def short(text: str, most: int) -> str:
    """A text on one line of at most so many characters (8 or more), its middle left out."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= most else f"{text[: most - 7]}...{text[-4:]}"


def name(text: str, most: int) -> str:
    """The name of a class for matplotlib: short, and without the two signs that mean something.

    Text between dollars is mathematics, and what begins with an underscore has no place in legends.
    """
    text = short(text, most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def subject(data: str) -> str:
    """What a run is about, for a title: of a path (txt:/home/me/poems.txt) its last name."""
    kind, colon, written = data.partition(":")
    if kind not in _PATHS or not colon:
        return data
    return f"{kind}:{short(Path(written).name or written, _NAME)}".replace("$", r"\$")


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
    width = max(canvas.shape[1], _wide(title, 12)) + 2 * margin
    width = max(width, _NARROWEST)
    drawn = figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=WHITE)
    drawn.figimage(canvas, margin, margin, origin="upper")
    drawn.text(margin / width, 1 - 14 / height, title, fontsize=12, color=INK, va="top")
    for head in heads:
        left = (margin + head.x) / width
        drawn.text(left, 1 - 42 / height, head.text, fontsize=9.5, color=head.color, va="top")
    drawn.savefig(path, dpi=DPI)


def _wide(text: str, size: float) -> int:
    """How many pixels a text of a size in points takes."""
    from matplotlib.textpath import TextPath

    return int(np.ceil(TextPath((0, 0), text, size=size).get_extents().xmax * DPI / 72))


def figure(**settings: Any) -> "Figure":
    """A figure of matplotlib's of its own, which pyplot does not know.

    A notebook's pictures and backend stay as they are. Imported late, because it takes a while.
    """
    from matplotlib.figure import Figure

    return Figure(**settings)
