"""What an encoder of images sees and makes of it, as pictures: each function writes one PNG file.

Images are uint8, or floats in [0, 1]; grey or RGB. They are enlarged by whole factors, so every pixel stays a square.
The first colours are those of Okabe and Ito, which colour-blind readers can tell apart.
Shapes: N features, D of a feature or embedding, Q queries, k neighbours, H, W, C of an image.
"""

from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np

_DPI = 100
_TILE = 84  # pixels: about the side of an image after enlargement
_WHITE, _CARD, _INK = "#ffffff", "#e9edf1", "#222222"
_RIGHT, _WRONG = "#0072b2", "#d55e00"
_COLOURS = (
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
_MARKERS = "osD^Xv"  # each with all colours in turn
_NARROWEST = 480  # pixels: room for the texts above
_COMPONENTS = 256  # of a correlation that are shown
_CLASSES = 40  # of a confusion, at most
_POINTS = 1_500  # of a map, at most


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


def neighbours(queries: np.ndarray, shown: np.ndarray, right: np.ndarray, path: Path) -> None:
    """Draws a row per test image: the image itself, then its nearest training images, framed by their class.

    Args:
      queries: [Q, H, W, C], test images.
      shown: [Q, k, H, W, C], the nearest training images of each, the nearest first.
      right: [Q, k] booleans, whether a neighbour is of its query's class.
      path: the file to write.
    """
    chex.assert_shape(right, shown.shape[:2])
    chex.assert_equal_shape([queries, shown[:, 0]])
    left, tiles = _tiles(queries), _tiles(shown.reshape(-1, *shown.shape[2:]))
    height, width = left.shape[1:3]
    edge, gap, aside = 4, 6, 30
    frame_height, frame_width = height + 2 * edge, width + 2 * edge
    count, k = right.shape
    start = frame_width + aside
    canvas = _canvas(count * (frame_height + gap) - gap, start + k * (frame_width + gap) - gap)
    for row in range(count):
        y = row * (frame_height + gap)
        canvas[y + edge : y + edge + height, edge : edge + width] = left[row]
        for column in range(k):
            x = start + column * (frame_width + gap)
            canvas[y : y + frame_height, x : x + frame_width] = _rgb(
                _RIGHT if right[row, column] else _WRONG
            )
            canvas[y + edge : y + edge + height, x + edge : x + edge + width] = tiles[
                row * k + column
            ]
    heads = [
        (0, "test image", _INK),
        (start, f"{k} nearest training images:", _INK),
        (start + 180, "its class", _RIGHT),
        (start + 245, "another", _WRONG),
    ]
    _save(canvas, "Nearest neighbours by cosine similarity", heads, path)


def correlation(c: jax.Array, path: Path) -> None:
    """Draws a cross-correlation matrix [D, D], or its leading block where it is large, and sums up all of it."""
    c = np.asarray(c, np.float32)
    chex.assert_shape(c, (len(c), len(c)))
    diagonal = np.diagonal(c)
    others = np.linalg.norm(c - np.diag(diagonal)) / np.sqrt(max(1, c.size - len(c)))
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.6, 5.8), layout="constrained")
    size = min(len(c), _COMPONENTS)
    image = axes.imshow(c[:size, :size], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    part = f"the first {size} of {len(c):,} components" if size < len(c) else "component"
    axes.set(
        title=f"Cross-correlation of two views' embeddings\ndiagonal: mean {diagonal.mean():.2f}; "
        f"off the diagonal: root mean square {others:.3f}",
        xlabel=f"view B: {part}",
        ylabel=f"view A: {part}",
    )
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.9)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def feature_map(
    features: np.ndarray, labels: np.ndarray, classes: Sequence[str], path: Path
) -> None:
    """Draws features as points in the plane (t-SNE), coloured by class.

    Fewer than 10 features, or features that are all the same, are drawn by two principal components instead. The
    same sample of at most 1,500 features is drawn at every call; of more classes than there are pairs of a
    colour and a marker (60), the first ones.

    Args:
      features: [N, D].
      labels: [N] integers in [0, len(classes)).
      classes: the names of the classes.
      path: the file to write.
    """
    chex.assert_shape(labels, (len(features),))
    labels = np.asarray(labels)
    looks = [(colour, marker) for marker in _MARKERS for colour in _COLOURS][: len(classes)]
    drawable = np.flatnonzero(labels < len(looks))
    drawn = np.random.default_rng(0).permutation(drawable)[:_POINTS]
    points, method = _plane(np.asarray(features, np.float64)[drawn])
    labels = labels[drawn]
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8.4, 6), layout="constrained")
    size = 16 if len(points) > 300 else 34
    for label, (colour, marker) in enumerate(looks):
        mine = points[labels == label]
        axes.scatter(
            *mine.T, s=size, c=colour, marker=marker, alpha=0.8, linewidth=0, label=classes[label]
        )
    of = "" if len(drawn) == len(features) else f" of {len(features):,}"
    axes.set(
        title=f"Test features by class: {method} of {len(drawn):,}{of} images", xticks=[], yticks=[]
    )
    axes.set_aspect("equal", adjustable="datalim")
    for side in axes.spines.values():
        side.set_color("#bbbbbb")
    some = "" if len(looks) == len(classes) else f"first {len(looks)} of {len(classes):,} classes"
    columns = -(-len(looks) // 24)
    legend = figure.legend(
        loc="outside right upper", frameon=False, title=some, ncols=columns, markerscale=1.6
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def confusion(labels: np.ndarray, guesses: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draws how many of each class's examples are taken for which class, in percent of the class.

    Args:
      labels: [N] integers in [0, len(classes)).
      guesses: [N], likewise.
      classes: the names of the classes; of more than 40, the first.
      path: the file to write.
    """
    chex.assert_equal_shape([labels, guesses])
    count = len(classes)
    counts = np.bincount(labels * count + guesses, minlength=count**2).reshape(
        count, count
    )  # [class, guess]
    shares = (100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[:_CLASSES, :_CLASSES]
    shown = classes[:_CLASSES]
    plt = _pyplot()
    side = 2.2 + 0.5 * len(shown)
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            axes.text(
                column,
                row,
                f"{share:.0f}",
                ha="center",
                va="center",
                color="white" if share > 55 else _INK,
            )
    ticks = np.arange(len(shown))
    axes.set(xticks=ticks, yticks=ticks, yticklabels=shown, xlabel="taken for", ylabel="class")
    axes.set_xticks(ticks, shown, rotation=45, ha="right")
    some = "" if len(shown) == count else f"; the first {len(shown)} of {count:,} classes"
    right = f"{100 * np.mean(labels == guesses):.1f} % are right"
    axes.set_title(f"Test examples, in percent of their class\n{right}{some}")
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _plane(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Points [N, 2] that stand for features [N, D], and the name of the method."""
    features = features / max(float(np.abs(features).max()), 1e-30)  # t-SNE finds its own scale
    centred = features - features.mean(axis=0, keepdims=True)
    squares, axes = np.linalg.eigh(centred @ centred.T)  # [N], [N, N], ascending
    components = axes[:, ::-1] * np.sqrt(np.maximum(squares[::-1], 0))[None, :]
    components = np.pad(components, ((0, 0), (0, max(0, 2 - len(features)))))
    if (
        len(features) < 10 or squares[-1] < 1e-12 * features.size
    ):  # few, or the same but for rounding
        return components[:, :2], "principal components"
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = components[:, :2] / components[:, 0].std() * 1e-4  # as small as its authors start
    tsne = TSNE(
        init=start, perplexity=min(30, (len(features) - 1) / 3), max_iter=500, random_state=0
    )
    with threadpool_limits(
        1
    ):  # OpenMP's threads spin while they wait: on busy cores that takes ten times longer
        return tsne.fit_transform(components[:, :50]), "t-SNE"


def _cards(images: Sequence[jax.Array], most: int, title: str, path: Path) -> None:
    """Writes n cards, at most so many in a row; each shows one image of each of k sets [n, H, W, C], in order."""
    chex.assert_equal_shape(images)
    sets = [_tiles(x) for x in images]
    count, height, width = sets[0].shape[:3]
    edge, gap = 5, 14
    card_height, card_width = height + 2 * edge, edge + len(sets) * (width + edge)
    columns = min(most, count)
    rows = -(-count // columns)
    canvas = _canvas(rows * (card_height + gap) - gap, columns * (card_width + gap) - gap)
    for i in range(count):
        y, x = i // columns * (card_height + gap), i % columns * (card_width + gap)
        canvas[y : y + card_height, x : x + card_width] = _rgb(_CARD)
        for k, tiles in enumerate(sets):
            left = x + edge + k * (width + edge)
            canvas[y + edge : y + edge + height, left : left + width] = tiles[i]
    _save(canvas, title, [], path)


def _tiles(images: jax.Array) -> np.ndarray:
    """Images [n, H, W, C] as RGB uint8 [n, f H, f W, 3], enlarged by a whole factor f to about `_TILE`."""
    images = np.asarray(images)
    chex.assert_rank(images, 4)
    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    factor = max(1, round(_TILE / max(images.shape[1:3])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _save(
    canvas: np.ndarray, title: str, heads: Sequence[tuple[int, str, str]], path: Path
) -> None:
    """Writes a canvas [height, width, 3], pixel by pixel, below a title and a line of texts (x in pixels, colour)."""
    margin, top = 16, 66 if heads else 44
    height, width = canvas.shape[0] + margin + top, max(canvas.shape[1] + 2 * margin, _NARROWEST)
    plt = _pyplot()
    figure = plt.figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_WHITE)
    figure.figimage(canvas, margin, margin, origin="upper")
    figure.text(margin / width, 1 - 14 / height, title, fontsize=12, color=_INK, va="top")
    for x, text, colour in heads:
        figure.text(
            (margin + x) / width, 1 - 42 / height, text, fontsize=9.5, color=colour, va="top"
        )
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
