"""Digits as graphs: which digit do its superpixels make?

A superpixel is a connected patch of pixels of about the same gray, of four levels, in the published
8 x 8 images enlarged twice. It holds its gray, its center and its size, and is linked with those
that it touches. The split is that of `data.digits`.
"""

import numpy as np
from scipy import ndimage

from missing_bits.data.graphs import GraphSet, graph_set, simple

_LEVELS = 4
_TESTED = 500


def load() -> GraphSet:
    """The graphs of all 1,797 images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    levels, labels = load_digits(return_X_y=True)
    nodes = []
    links = []
    graph_of = []
    first = 0
    for number, image in enumerate(levels.reshape(-1, 8, 8) / 16):
        features, pairs = _graph(image)
        nodes.append(features)
        links.append(first + pairs)
        graph_of.append(np.full(len(features), number))
        first += len(features)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TESTED, stratify=labels, random_state=0
    )
    train = np.random.default_rng(0).permutation(train)
    tenth = len(train) // 10
    pairs = np.concatenate(links)
    return graph_set(
        np.concatenate(nodes).astype(np.float32),
        *simple(pairs[:, 0], pairs[:, 1], first),
        graph_of=np.concatenate(graph_of),
        labels=labels,
        classes=tuple("0123456789"),
        train=np.sort(train[tenth:]),
        validation=np.sort(train[:tenth]),
        test=np.sort(test),
        where="superpixels",
    )


def _graph(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 4] of superpixels and the pairs [m, 2] that touch, of an image in [0, 1]."""
    image = ndimage.zoom(image, 2, order=1)
    level = np.minimum((image * _LEVELS).astype(int), _LEVELS - 1)
    patches = np.zeros(image.shape, int)
    count = 0
    for gray in range(_LEVELS):
        numbered, many = ndimage.label(level == gray)
        patches[numbered > 0] = numbered[numbered > 0] + count - 1
        count += many
    rows, columns = np.indices(image.shape) / (len(image) - 1)
    size = np.bincount(patches.ravel(), minlength=count)
    sums = [
        np.bincount(patches.ravel(), values.ravel(), count) for values in (image, rows, columns)
    ]
    features = np.stack([*(total / size for total in sums), size / 32], axis=1)
    right = np.stack([patches[:, :-1].ravel(), patches[:, 1:].ravel()], axis=1)
    down = np.stack([patches[:-1].ravel(), patches[1:].ravel()], axis=1)
    return features, np.concatenate([right, down])
