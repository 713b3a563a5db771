"""Pictures of images: pairs of views, reconstructions, nearest neighbors."""

from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np

from missing_bits.pictures import canvas


def pairs(x_a: jax.Array, x_b: jax.Array, path: Path) -> None:
    """Draws two views of each of n images, side by side on a card, four cards in a row.

    Args:
      x_a, x_b: [n, H, W, C], views of the same images in the same order.
      path: the file to write.
    """
    _cards([x_a, x_b], 4, "Two views of an image on each card", path)


def reconstructions(images: jax.Array, masked: jax.Array, restored: jax.Array, path: Path) -> None:
    """Draws each of n images as it is, masked, and reconstructed, side by side on a card, three cards in a row.

    Args:
      images, masked, restored: [n, H, W, C], in the same order.
      path: the file to write.
    """
    _cards([images, masked, restored], 3, "Original, masked and reconstructed", path)


def neighbors(queries: np.ndarray, shown: np.ndarray, right: np.ndarray, path: Path) -> None:
    """Draws a row per test image: the image itself, then its nearest training images, framed by their class.

    Args:
      queries: [Q, H, W, C], test images.
      shown: [Q, k, H, W, C], the nearest training images of each, the nearest first.
      right: [Q, k] booleans, whether a neighbor is of its query's class.
      path: the file to write.
    """
    chex.assert_shape(right, shown.shape[:2])
    chex.assert_equal_shape([queries, shown[:, 0]])
    left, tiles = canvas.tiles(queries), canvas.tiles(shown.reshape(-1, *shown.shape[2:]))
    height, width = left.shape[1:3]
    edge, gap, aside = 4, 6, 30
    frame_height, frame_width = height + 2 * edge, width + 2 * edge
    count, k = right.shape
    start = frame_width + aside
    page = canvas.blank(count * (frame_height + gap) - gap, start + k * (frame_width + gap) - gap)
    for row in range(count):
        y = row * (frame_height + gap)
        page[y + edge : y + edge + height, edge : edge + width] = left[row]
        for column in range(k):
            x = start + column * (frame_width + gap)
            page[y : y + frame_height, x : x + frame_width] = canvas.rgb(
                canvas.RIGHT if right[row, column] else canvas.WRONG
            )
            page[y + edge : y + edge + height, x + edge : x + edge + width] = tiles[
                row * k + column
            ]
    heads = [
        (0, "test image", canvas.INK),
        (start, f"{k} nearest training images:", canvas.INK),
        (start + 180, "its class", canvas.RIGHT),
        (start + 245, "another", canvas.WRONG),
    ]
    canvas.save(page, "Nearest neighbors by cosine similarity", heads, path)


def _cards(images: Sequence[jax.Array], most: int, title: str, path: Path) -> None:
    """Writes n cards, at most so many in a row; each shows one image of each of k sets [n, H, W, C], in order."""
    chex.assert_equal_shape(images)
    sets = [canvas.tiles(x) for x in images]
    count, height, width = sets[0].shape[:3]
    edge, gap = 5, 14
    card_height, card_width = height + 2 * edge, edge + len(sets) * (width + edge)
    columns = min(most, count)
    rows = -(-count // columns)
    page = canvas.blank(rows * (card_height + gap) - gap, columns * (card_width + gap) - gap)
    for i in range(count):
        y, x = i // columns * (card_height + gap), i % columns * (card_width + gap)
        page[y : y + card_height, x : x + card_width] = canvas.rgb(canvas.CARD)
        for k, tiles in enumerate(sets):
            left = x + edge + k * (width + edge)
            page[y + edge : y + edge + height, left : left + width] = tiles[i]
    canvas.save(page, title, [], path)
