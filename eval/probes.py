"""What frozen encoders are worth: probes, simpler encoders to compare with, pictures."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from missing_bits.data.images import ImageSet, Lazy, Split
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.eval import collapse, knn, linear_probe
from missing_bits.pictures import features as features_pictures
from missing_bits.pictures import images as images_pictures


class Probes:
    """Scores encoders of one kind on one labeled set of images.

    Labels reach the probes alone, never the encoder; batch normalization uses its moving averages; the test split
    takes no part in choosing anything (the linear probe's regularization is chosen within the training split).

    Args:
      data: the images; without labels in both splits, only the spread of features is told.
      encoder: what is probed.
      most: training images that the probes learn from, at most, evenly spaced; 0 for all.
      batch_size: images that are encoded at once.

    Raises:
      UserError: `most` is too small.
    """

    def __init__(
        self, data: ImageSet, encoder: ImageEncoder, most: int = 0, batch_size: int = 500
    ) -> None:
        require(
            most == 0 or most >= 10, f"--probe-images is {most}; give at least 10, or 0 for all."
        )
        self._encoder, self._batch_size = encoder, batch_size
        self._data = dataclasses.replace(data, train=_at_most(data.train, most))
        self._encode = jax.jit(lambda variables, images: encoder.apply(variables, images)[0])
        self.labeled = data.train.labels is not None and data.test.labels is not None
        self.headline = "eval/knn_accuracy" if self.labeled else "eval/effective_rank"

    def features(self, variables: Variables, split: Split) -> np.ndarray:
        """Features [N, D] of a split's images."""
        return in_batches(
            functools.partial(self._encode, variables), split.images, self._batch_size
        )

    def scores(self, variables: Variables) -> dict[str, float]:
        """The metrics "eval/..." of an encoder; warns if its features have collapsed."""
        test = self.features(variables, self._data.test)
        spread = collapse.spread(test)
        if not self.labeled:
            return spread
        knn_accuracy, linear_accuracy = self._accuracies(
            self.features(variables, self._data.train), test
        )
        return {
            "eval/knn_accuracy": knn_accuracy,
            "eval/linear_accuracy": linear_accuracy,
            **spread,
        }

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """The same probes on raw pixels and on an encoder that has learned nothing."""
        if not self.labeled:
            return {}
        random, splits = jax.jit(self._encoder.init)(key), (self._data.train, self._data.test)
        found = {
            "pixels": self._pixel_accuracies,
            "random": self._accuracies(*(self.features(random, split) for split in splits)),
        }
        names = ("knn_accuracy", "linear_accuracy")
        return {
            f"baseline/{who}_{n}": a
            for who, both in found.items()
            for n, a in zip(names, both, strict=True)
        }

    def pictures(self, variables: Variables, folder: Path) -> None:
        """A map of test features, and the nearest training images of some test images."""
        if not self.labeled:
            return
        train, test = self._data.train, self._data.test
        train_features, test_features = (
            self.features(variables, train),
            self.features(variables, test),
        )
        features_pictures.feature_map(
            test_features, test.labels, self._data.classes, folder / "features.png"
        )
        queries = np.linspace(0, len(test.labels) - 1, 8).astype(int)
        near = knn.neighbors(train_features, test_features[queries], 7)
        shown = train.images[near.ravel()].reshape(*near.shape, *train.images.shape[1:])
        right = train.labels[near] == test.labels[queries][:, None]
        images_pictures.neighbors(test.images[queries], shown, right, folder / "neighbors.png")

    @functools.cached_property
    def _pixel_accuracies(self) -> tuple[float, float]:
        return self._accuracies(*(_pixels(split) for split in (self._data.train, self._data.test)))

    def _accuracies(self, train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
        labels = self._data.train.labels, self._data.test.labels
        nearest = knn.accuracy(train, labels[0], test, labels[1])
        return nearest, linear_probe.accuracy(
            train, labels[0], test, labels[1], len(self._data.classes)
        )


class _Some(NamedTuple):
    """Some of a split's images, taken from it when asked for."""

    images: np.ndarray | Lazy
    chosen: np.ndarray  # [n], their indices

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.chosen), *self.images.shape[1:])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self.images[self.chosen[indices]]


def _at_most(split: Split, most: int) -> Split:
    """So many images of a split, evenly spaced; all if there are no more, or `most` is 0."""
    count = split.images.shape[0]
    if not 0 < most < count:
        return split
    chosen = np.linspace(0, count - 1, most).astype(int)
    return Split(
        _Some(split.images, chosen), None if split.labels is None else split.labels[chosen]
    )


def _pixels(split: Split) -> np.ndarray:
    images = split.images[np.arange(split.images.shape[0])]
    return images.reshape(len(images), -1).astype(np.float32) / 255


def in_batches(
    fn: Callable[[np.ndarray], jax.Array], examples: np.ndarray | Lazy, batch_size: int
) -> np.ndarray:
    """The rows [N, ...] that a jitted function makes of examples [N, ...], compiled for one size of batches.

    Args:
      fn: maps [batch_size, ...] to [batch_size, ...].
      examples: an array, or images that are decoded when asked for.
      batch_size: examples at once; the last batch is padded with zeros.
    """
    count, found = examples.shape[0], []
    for start in range(0, count, batch_size):
        batch = examples[np.arange(start, min(start + batch_size, count))]
        padding = np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)
        found.append(np.asarray(fn(np.concatenate([batch, padding])))[: len(batch)])
    return np.concatenate(found)
