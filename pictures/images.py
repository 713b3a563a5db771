"""Pictures of images: pairs of views, reconstructions, nearest neighbors.

Each function writes one PNG file. Images are uint8, or floats in [0, 1]; gray or RGB. They are
enlarged by whole factors, so every pixel stays a square.
Shapes: n images, Q queries, k neighbors, H, W, C of an image.
"""

from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np

from missing_bits.numeric import ceil_div
from missing_bits.pictures import canvas


def pairs(x_a: jax.Array, x_b: jax.Array, path: Path) -> None:
    """Draws two views of each of n images, side by side on a card, four cards in a row.

    Args:
      x_a: [n, H, W, C], first views.
      x_b: [n, H, W, C], second views of the same images in the same order.
      path: the file to write.
    """
    cards([x_a, x_b], 4, "Two views of an image on each card", path)


def reconstructions(images: jax.Array, masked: jax.Array, restored: jax.Array, path: Path) -> None:
    """Draws each of n images as it is, masked, and reconstructed, side by side on a card.

    Three cards stand in a row.

    Args:
      images: [n, H, W, C].
      masked: [n, H, W, C], in the same order.
      restored: [n, H, W, C], in the same order.
      path: the file to write.
    """
    cards([images, masked, restored], 3, "Original, masked and reconstructed", path)


def neighbors(queries: np.ndarray, shown: np.ndarray, right: np.ndarray, path: Path) -> None:
    """Draws a row per test image: the image itself, then its nearest training images.

    Frames tell whether these are of its class.

    Args:
      queries: [Q, H, W, C], test images.
      shown: [Q, k, H, W, C], the nearest training images of each, the nearest first.
      right: [Q, k] booleans, whether a neighbor is of its query's class.
      path: the file to write.
    """
    chex.assert_shape(right, shown.shape[:2])
    chex.assert_equal_shape([queries, shown[:, 0]])
    count, k = right.shape
    left = canvas.tiles(queries)
    tiles = canvas.tiles(shown.reshape(-1, *shown.shape[2:]))
    height, width = left.shape[1:3]
    edge = 4
    gap = 6
    aside = 30
    frame_height = height + 2 * edge
    frame_width = width + 2 * edge
    start = frame_width + aside
    page = canvas.blank(count * (frame_height + gap) - gap, start + k * (frame_width + gap) - gap)
    for row in range(count):
        y = row * (frame_height + gap)
        canvas.paste(page, left[row], y + edge, edge)
        for column in range(k):
            x = start + column * (frame_width + gap)
            color = canvas.RIGHT if right[row, column] else canvas.WRONG
            page[y : y + frame_height, x : x + frame_width] = canvas.rgb(color)
            canvas.paste(page, tiles[row * k + column], y + edge, x + edge)
    heads = [
        canvas.Head(0, "test image", canvas.INK),
        canvas.Head(start, f"{k} nearest training images:", canvas.INK),
        canvas.Head(start + 180, "its class", canvas.RIGHT),
        canvas.Head(start + 245, "another", canvas.WRONG),
    ]
    canvas.save(page, "Nearest neighbors by cosine similarity", heads, path)


def grid(images: np.ndarray, columns: int, title: str, path: Path) -> None:
    """Draws images in rows, close to each other.

    Args:
      images: [n, H, W, C], row by row.
      columns: images in a row.
      title: of the page.
      path: the file to write.
    """
    canvas.save(sheet(images, columns), title, [], path)


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [n, H, W, C] in rows of so many, as a canvas [height, width, 3]."""
    tiles = canvas.tiles(images)
    count, height, width = tiles.shape[:3]
    gap = 2
    columns = min(columns, count)
    rows = ceil_div(count, columns)
    page = canvas.blank(rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        canvas.paste(page, tile, row * (height + gap), column * (width + gap))
    return page


def cards(images: Sequence[jax.Array], most: int, title: str, path: Path) -> None:
    """Writes n cards; each shows one image of each of k sets, side by side.

    Args:
      images: the sets, [n, H, W, C] each.
      most: cards in a row, at most.
      title: of the page.
      path: the file to write.
    """
    chex.assert_equal_shape(images)
    sets = [canvas.tiles(x) for x in images]
    count, height, width = sets[0].shape[:3]
    edge = 5
    gap = 14
    card_height = height + 2 * edge
    card_width = edge + len(sets) * (width + edge)
    columns = min(most, count)
    rows = ceil_div(count, columns)
    page = canvas.blank(rows * (card_height + gap) - gap, columns * (card_width + gap) - gap)
    for i in range(count):
        row, column = divmod(i, columns)
        y = row * (card_height + gap)
        x = column * (card_width + gap)
        page[y : y + card_height, x : x + card_width] = canvas.rgb(canvas.CARD)
        for k, tiles in enumerate(sets):
            canvas.paste(page, tiles[i], y + edge, x + edge + k * (width + edge))
    canvas.save(page, title, [], path)
