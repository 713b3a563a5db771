"""A GIF of an episode."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_FRAMES = 250  # at most
_WIDTH = 300  # pixels


def gif(frames: Sequence[np.ndarray], returns: Sequence[float], path: Path) -> None:
    """Writes an episode as a GIF with its return so far in the corner; nothing where there are no frames.

    Args:
      frames: RGB [height, width, 3] uint8, one before the first step and one after each.
      returns: the sum of rewards up to each frame.
      path: the file to write.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not frames:
        return
    stride = max(1, -(-(len(frames) - 1) // (_FRAMES - 1)))
    kept = [*range(0, len(frames) - 1, stride), len(frames) - 1]
    font, pictures = ImageFont.load_default(size=16), []
    for i in kept:
        picture = Image.fromarray(np.asarray(frames[i]))
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)))
        draw = ImageDraw.Draw(picture)
        draw.text(
            (6, 4),
            f"step {i}   return {returns[i]:g}",
            font=font,
            fill="white",
            stroke_width=2,
            stroke_fill="black",
        )
        pictures.append(picture.quantize(64))
    durations = [40] * (len(pictures) - 1) + [1500]  # milliseconds; the last frame stays
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
