"""Pictures of features and of what is made of them: correlations, maps, confusions.

Each function writes one PNG file.
Shapes: N features, D of a feature or embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import chex
import jax
import numpy as np

from missing_bits.numeric import ceil_div
from missing_bits.pictures import canvas

_COMPONENTS = 256  # of a correlation that are shown
_CLASSES = 40  # of a confusion, at most
_POINTS = 1_500  # of a map, at most
_NAME = 24  # characters of a class's name that are shown
_ROWS = 20  # of a legend


def correlation(c: jax.Array, path: Path) -> None:
    """Draws a cross-correlation matrix, or its leading block where it is large, and sums it up.

    Args:
      c: [D, D].
      path: the file to write.
    """
    c = np.asarray(c, np.float32)
    chex.assert_shape(c, (len(c), len(c)))
    diagonal = np.diagonal(c)
    others = np.linalg.norm(c - np.diag(diagonal)) / np.sqrt(max(1, c.size - len(c)))
    figure = canvas.figure(figsize=(6.6, 5.8), layout="constrained")
    axes = figure.subplots()
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
    figure.savefig(path, dpi=canvas.DPI)


def feature_map(
    features: np.ndarray, labels: np.ndarray, classes: Sequence[str], path: Path
) -> None:
    """Draws features as points in the plane (t-SNE), colored by class.

    Fewer than 10 features, or features that are all the same, are drawn by two principal components
    instead. The same sample of at most 1,500 features is drawn at every call; of more classes than
    there are pairs of a color and a marker (60), the first ones.

    Args:
      features: [N, D].
      labels: [N] integers in [0, len(classes)).
      classes: the names of the classes.
      path: the file to write.
    """
    chex.assert_shape(labels, (len(features),))
    labels = np.asarray(labels)
    all_looks = [(color, marker) for marker in canvas.MARKERS for color in canvas.COLORS]
    looks = all_looks[: len(classes)]
    drawable = np.flatnonzero(labels < len(looks))
    drawn = np.random.default_rng(0).permutation(drawable)[:_POINTS]
    points, method = _plane(np.asarray(features, np.float64)[drawn])
    labels = labels[drawn]
    columns = ceil_div(len(looks), _ROWS)
    figure = canvas.figure(figsize=(6.6 + 2.2 * columns, 6), layout="constrained")
    axes = figure.subplots()
    size = 16 if len(points) > 300 else 34
    for label, (color, marker) in enumerate(looks):
        mine = points[labels == label]
        axes.scatter(
            mine[:, 0],
            mine[:, 1],
            s=size,
            c=color,
            marker=marker,
            alpha=0.8,
            linewidth=0,
            label=canvas.name(classes[label], _NAME),
        )
    of = "" if len(drawn) == len(features) else f" of {len(features):,}"
    axes.set_title(f"Test features by class: {method} of {len(drawn):,}{of} examples")
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    for side in axes.spines.values():
        side.set_color("#bbbbbb")
    some = "" if len(looks) == len(classes) else f"first {len(looks)} of {len(classes):,} classes"
    legend = figure.legend(
        loc="outside right upper",
        frameon=False,
        title=some,
        ncols=columns,
        markerscale=1.6,
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    figure.savefig(path, dpi=120)


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
    counts = np.bincount(labels * count + guesses, minlength=count**2)
    counts = counts.reshape(count, count)  # [class, guess]
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = shares[:_CLASSES, :_CLASSES]
    shown = [canvas.name(name, _NAME) for name in classes[:_CLASSES]]
    side = max(4.2, 2.2 + 0.5 * len(shown))  # inches; room for the title and for long names
    figure = canvas.figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            color = "white" if share > 55 else canvas.INK
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color)
    ticks = np.arange(len(shown))
    axes.set(xticks=ticks, yticks=ticks, yticklabels=shown, xlabel="taken for", ylabel="class")
    axes.set_xticks(ticks, shown, rotation=45, ha="right")
    some = "" if len(shown) == count else f"; the first {len(shown)} of {count:,} classes"
    right = f"{100 * np.mean(labels == guesses):.1f} % are right"
    axes.set_title(f"Test examples, in percent of their class\n{right}{some}")
    figure.savefig(path, dpi=canvas.DPI)


def _plane(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Points [N, 2] that stand for features [N, D], and the name of the method."""
    features = features / max(float(np.abs(features).max()), 1e-30)  # t-SNE finds its own scale
    centered = features - features.mean(axis=0, keepdims=True)
    squares, axes = np.linalg.eigh(centered @ centered.T)  # [N], [N, N], ascending
    components = axes[:, ::-1] * np.sqrt(np.maximum(squares[::-1], 0))[None, :]
    components = np.pad(components, ((0, 0), (0, max(0, 2 - len(features)))))
    same_but_for_rounding = squares[-1] < 1e-12 * features.size
    if len(features) < 10 or same_but_for_rounding:
        return components[:, :2], "principal components"
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = components[:, :2] / components[:, 0].std() * 1e-4  # as small as its authors start
    perplexity = min(30, (len(features) - 1) / 3)
    tsne = TSNE(init=start, perplexity=perplexity, max_iter=500, random_state=0)
    # OpenMP's threads spin while they wait: on busy cores that takes ten times longer.
    with threadpool_limits(1):
        return tsne.fit_transform(components[:, :50]), "t-SNE"
