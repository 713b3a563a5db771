"""Pictures of what was generated: beside real images, while it was learned, on a plane.

Shapes: F frames, n samples, k neighbors, H, W, C of an image.
"""

from collections.abc import Sequence
from pathlib import Path

import chex
import numpy as np

from missing_bits.pictures import canvas, images

_SECONDS = 0.25  # that a frame is seen
_HELD = 2.0  # seconds that the last one is seen
_TRUE = canvas.COLORS[9]
POINTS = (  # what the colors of `points` mean
    canvas.Head(150, "generated points", canvas.WRONG),
    canvas.Head(270, "true ones", _TRUE),
)


def nearest(samples: np.ndarray, shown: np.ndarray, path: Path) -> None:
    """Draws a row per sample: the sample, then the training images nearest to it.

    Args:
      samples: [n, H, W, C].
      shown: [n, k, H, W, C], the nearest first.
      path: the PNG file to write.
    """
    chex.assert_equal_shape([samples, shown[:, 0]])
    count, k = shown.shape[:2]
    left = images.sheet(samples, 1)
    right = images.sheet(shown.reshape(count * k, *shown.shape[2:]), k)
    aside = 30
    page = canvas.blank(left.shape[0], left.shape[1] + aside + right.shape[1])
    canvas.paste(page, left, 0, 0)
    canvas.paste(page, right, 0, left.shape[1] + aside)
    heads = [
        canvas.Head(0, "samples", canvas.INK),
        canvas.Head(left.shape[1] + aside, f"{k} nearest training images", canvas.INK),
    ]
    canvas.save(page, "Nearest training images by pixels", heads, path)


def growth(
    frames: Sequence[np.ndarray],
    updates: Sequence[int],
    path: Path,
    legend: Sequence[canvas.Head] = (),
) -> None:
    """Writes pictures of the same samples over training as a GIF.

    Args:
      frames: [height, width, 3] uint8 each, all of one size.
      updates: after how many updates each was made.
      path: the GIF file to write.
      legend: texts beside the number of updates, if any.
    """
    from PIL import Image, ImageDraw

    drawn = []
    for frame, update in zip(frames, updates, strict=True):
        head = 18
        page = canvas.blank(frame.shape[0] + head, frame.shape[1])
        canvas.paste(page, frame, head, 0)
        picture = Image.fromarray(page)
        pen = ImageDraw.Draw(picture)
        for text in (canvas.Head(2, f"update {update:,}", canvas.INK), *legend):
            pen.text((text.x, 3), text.text, fill=text.color)
        drawn.append(picture)
    milliseconds = [round(1000 * _SECONDS)] * (len(drawn) - 1) + [round(1000 * _HELD)]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=milliseconds, loop=0)


def points(samples: np.ndarray, real: np.ndarray, reach: float) -> np.ndarray:
    """A frame of points on the plane, in the colors of `POINTS`.

    Args:
      samples: [n, 2], drawn over the real ones.
      real: [m, 2].
      reach: the largest coordinate that is seen.

    Returns:
      [height, width, 3] uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = canvas.figure(figsize=(3.6, 3.6), dpi=canvas.DPI, facecolor=canvas.WHITE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.scatter(*real.T, s=3, color=_TRUE, linewidths=0)
    axes.scatter(*samples.T, s=3, color=canvas.WRONG, linewidths=0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.set_axis_off()
    agg = FigureCanvasAgg(figure)
    agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()
