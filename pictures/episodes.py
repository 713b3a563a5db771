"""A GIF of an episode."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from missing_bits.numeric import ceil_div

_FRAMES = 250  # at most
_WIDTH = 300  # pixels


def gif(frames: Sequence[np.ndarray], returns: Sequence[float], path: Path) -> None:
    """Writes an episode as a GIF with its return so far in the corner.

    Nothing is written where there are no frames.

    Args:
      frames: RGB [height, width, 3] uint8, one before the first step and one after each.
      returns: the sum of rewards up to each frame.
      path: the file to write.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not frames:
        return
    last = len(frames) - 1
    stride = max(1, ceil_div(last, _FRAMES - 1))
    kept = [*range(0, last, stride), last]
    font = ImageFont.load_default(size=16)
    pictures = []
    for i in kept:
        picture = Image.fromarray(np.asarray(frames[i]))
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)))
        draw = ImageDraw.Draw(picture)
        text = f"step {i}   return {returns[i]:g}"
        draw.text((6, 4), text, font=font, fill="white", stroke_width=2, stroke_fill="black")
        pictures.append(picture.quantize(64))
    durations = [40] * (len(pictures) - 1) + [1500]  # milliseconds; the last frame stays
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
