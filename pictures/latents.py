"""Pictures of a latent space: a map by class, and the images that lie on it.

Shapes: N images, n latents, H, W, C of an image.
"""

from collections.abc import Sequence
from pathlib import Path

import chex
import numpy as np

from missing_bits.pictures import canvas, images

_POINTS = 5_000  # of a map, at most


def plane(latents: np.ndarray, labels: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draws latents of two numbers as points, colored by class.

    Args:
      latents: [N, 2].
      labels: [N] integers in [0, len(classes)).
      classes: their names; colors repeat after ten.
      path: the file to write.
    """
    chex.assert_shape(latents, (len(labels), 2))
    drawn = np.random.default_rng(0).permutation(len(labels))[:_POINTS]
    figure = canvas.figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for label, name in enumerate(classes):
        mine = latents[drawn][labels[drawn] == label]
        color = canvas.COLORS[label % len(canvas.COLORS)]
        marker = canvas.MARKERS[label // len(canvas.COLORS) % len(canvas.MARKERS)]
        text = canvas.short(name, 24).replace("$", r"\$").lstrip("_")
        axes.scatter(*mine.T, s=7, c=color, marker=marker, linewidth=0, alpha=0.7, label=text)
    axes.set(title="Latents of test images by class", xlabel="first", ylabel="second")
    figure.legend(loc="outside right upper", frameon=False, markerscale=2.5)
    figure.savefig(path, dpi=canvas.DPI)


def grid(latents: np.ndarray, count: int) -> np.ndarray:
    """Latents [count^2, 2] on a grid, row by row, as a map has them: the second falls downwards.

    Args:
      latents: [N, 2], whose 3rd to 97th percentile the grid spans on each axis.
      count: places on an axis.
    """
    low, high = np.percentile(latents, [3, 97], axis=0)
    across = np.linspace(low[0], high[0], count)
    up = np.linspace(high[1], low[1], count)
    return np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(np.float32)


def decoded(found: np.ndarray, places: np.ndarray, path: Path) -> None:
    """Draws what a decoder makes of a grid of latents, under a title that says where it lies.

    Args:
      found: images [n^2, H, W, C], row by row.
      places: [n^2, 2], their latents, as `grid` gives them.
      path: the file to write.
    """
    low = places.min(axis=0)
    high = places.max(axis=0)
    title = (
        f"Decoded latents: the first from {low[0]:.2g} (left) to {high[0]:.2g}, "
        f"the second from {low[1]:.2g} (bottom) to {high[1]:.2g}"
    )
    images.grid(found, round(len(found) ** 0.5), title, path)
