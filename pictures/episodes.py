"""A GIF of an episode."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from missing_bits.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

_FRAMES = 250  # at most
_WIDTH = 300  # pixels
_HEIGHT = 600  # pixels, at most


def gif(frames: Iterable[tuple[Any, float]], path: Path) -> None:
    """Writes an episode as a GIF with its return so far in the corner.

    Nothing is written where there are no frames.

    Args:
      frames: one before the first step and one after each: a picture, RGB [height, width, 3] or
        gray [height, width], uint8; and the sum of rewards so far.
      path: the file to write.

    Raises:
      UserError: a picture is none.
    """
    kept = thinned(frames)
    if not kept:
        return
    durations = [40] * (len(kept) - 1) + [1500]  # milliseconds; the last frame stays
    kept[0].save(path, save_all=True, append_images=kept[1:], duration=durations, loop=0)


def thinned(frames: Iterable[tuple[Any, float]]) -> list["Image"]:
    """The frames of an episode as small pictures, at most 250 however long it is.

    Of a longer episode every second, every fourth and so on is kept, with the first and the last.

    Args:
      frames: as of `gif`.
    """
    kept: list[Image] = []
    stride = 1
    last = None
    for step, (picture, total) in enumerate(frames):
        last = step, picture, total
        if step % stride == 0 and len(kept) == _FRAMES:
            kept = kept[::2]
            stride *= 2
        if step % stride == 0:
            kept.append(_drawn(*last))
    if last is not None and last[0] % stride != 0:
        del kept[_FRAMES - 1 :]
        kept.append(_drawn(*last))
    return kept


def _drawn(step: int, picture: Any, total: float) -> "Image":
    """A frame, made small, with its step and its return, in 64 colors."""
    from PIL import Image, ImageDraw, ImageFont

    frame = Image.fromarray(_pixels(picture)).convert("RGB")
    scale = min(_WIDTH / frame.width, _HEIGHT / frame.height)
    frame = frame.resize((max(1, round(frame.width * scale)), max(1, round(frame.height * scale))))
    text = f"step {step}   return {total:g}"
    font = ImageFont.load_default(size=16)
    draw = ImageDraw.Draw(frame)
    draw.text((6, 4), text, font=font, fill="white", stroke_width=2, stroke_fill="black")
    return frame.quantize(64)


def _pixels(picture: Any) -> np.ndarray:
    """A picture as [height, width] or [height, width, 3 or 4] uint8."""
    is_array = isinstance(picture, np.ndarray)
    if is_array and picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    is_gray = is_array and picture.ndim == 2
    is_rgb = is_array and picture.ndim == 3 and picture.shape[-1] in (3, 4)
    what = textwrap.shorten(repr(picture), 80)
    if is_array:
        what = f"an array of shape {picture.shape} and dtype {picture.dtype}"
    require(
        (is_gray or is_rgb) and picture.size > 0 and picture.dtype == np.uint8,
        f"render() returned {what}; a picture is RGB [height, width, 3] or gray [height, width], "
        "of uint8",
    )
    return np.ascontiguousarray(picture)
