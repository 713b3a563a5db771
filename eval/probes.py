"""What frozen encoders are worth: probes, simpler encoders to compare with, pictures."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from missing_bits.data.images import ImageSet, Lazy, Split
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.eval import collapse, knn, linear_probe, pixels
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.remembered import Remembered
from missing_bits.pictures import features as features_pictures
from missing_bits.pictures import images as images_pictures

_AT_ONCE = 500  # images
_NUMBERS_AT_ONCE = 10_000_000  # of all these images


@dataclass(frozen=True)
class Probing:
    """What probes of an encoder learn from."""

    probe_images: int = 0
    """Training images that the probes learn from, at most, evenly spaced; 0 for all."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for too few images."""
        most = self.probe_images
        require(
            most == 0 or most >= 10,
            f"--{prefix}probe-images is {most}; give at least 10, or 0 for all.",
        )


class Accuracies(NamedTuple):
    """The accuracies of the two probes, each in [0, 1]."""

    knn: float
    linear: float

    def metrics(self, prefix: str) -> dict[str, float]:
        """Both under their names, such as "eval/knn_accuracy"."""
        return {f"{prefix}knn_accuracy": self.knn, f"{prefix}linear_accuracy": self.linear}


class Probes:
    """Scores encoders of one kind on one labeled set of images.

    Labels reach the probes alone, never the encoder; batch normalization uses its moving averages;
    the test split takes no part in choosing anything (the linear probe's regularization is chosen
    within the training split).

    Args:
      data: the images; without labels in both splits, only the spread of features is told.
      encoder: what is probed.
      most: training images that the probes learn from, at most, evenly spaced; 0 for all.
      batch_size: images that are encoded at once; 0 for what `at_once` says.

    Attributes:
      labeled: whether both splits have labels.
      train_features: maps `Variables` to features [N, D] of the training images for the probes;
        those of the last variables are remembered, as a run's last scores and its pictures ask for
        the same.
      test_features: likewise of the test images, in every evaluation.
    """

    def __init__(
        self, data: ImageSet, encoder: ImageEncoder, most: int = 0, batch_size: int = 0
    ) -> None:
        self._data = dataclasses.replace(data, train=_at_most(data.labeled, most))
        self._batch_size = batch_size or at_once(data.shape)
        self._init = jax.jit(encoder.init)
        self._encode = jax.jit(lambda variables, images: encoder.apply(variables, images)[0])
        self.labeled = data.labeled.labels is not None and data.test.labels is not None
        self._pixels = pixels.of(self._data.train.images.shape, len(data.classes))
        self.train_features = Remembered(
            lambda variables: self.features(variables, self._data.train)
        )
        self.test_features = Remembered(lambda variables: self.features(variables, self._data.test))

    def evaluation(self) -> Evaluation:
        """Scores, baselines and pictures of an encoder with learned `Variables`."""
        headline = Headline("eval/knn_accuracy" if self.labeled else "eval/effective_rank")

        def scores(learned: Variables, key: jax.Array, last: bool) -> dict[str, float]:
            return self.scores(learned, last)

        def pictures(learned: Variables, seed: int, folder: Path) -> None:
            self.pictures(learned, folder)

        against = f"{self._pixels}, a random encoder" if self.labeled else ""
        return Evaluation(headline, scores, self.baselines, pictures, against)

    def features(self, variables: Variables, split: Split) -> np.ndarray:
        """Features [N, D] of a split's images, encoded anew at every call."""
        encode = functools.partial(self._encode, variables)
        return in_batches(encode, split.images, self._batch_size)

    def scores(self, variables: Variables, last: bool = False) -> dict[str, float]:
        """The metrics "eval/..." of an encoder; warns if its features have collapsed.

        Only at the `last` evaluation are features of training images, which may be large, kept for
        the pictures that follow it.
        """
        test = self.test_features(variables)
        spread = collapse.spread(test)
        if not self.labeled:
            return spread
        data = self._data
        train = self.train_features(variables) if last else self.features(variables, data.train)
        accuracies = self._accuracies(data, train, test)
        return {**accuracies.metrics("eval/"), **spread}

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """The same probes on pixels and on an encoder that has learned nothing.

        Pixels of pictures that are too large are shrunk (`pixels.of`), which their metrics' names
        tell. A random encoder costs what one evaluation does.
        """
        if not self.labeled:
            return {}
        random = self._init(key)
        train = self.features(random, self._data.train)
        test = self.features(random, self._data.test)
        return {
            **self._of_pixels.metrics(f"baseline/{self._pixels.name}_"),
            **self._accuracies(self._data, train, test).metrics("baseline/random_"),
        }

    def pictures(self, variables: Variables, folder: Path) -> None:
        """A map of test features, and the nearest training images of some test images."""
        if not self.labeled:
            return
        train = self._data.train
        test = self._data.test
        features = self.test_features(variables)
        features_pictures.feature_map(
            features, test.labels, self._data.classes, folder / "features.png"
        )
        by_class = np.argsort(test.labels, kind="stable")  # evenly spaced, they meet all classes
        queries = by_class[np.linspace(0, len(by_class) - 1, 8).astype(int)]
        near = knn.neighbors(self.train_features(variables), features[queries], 7)  # [8, 7]
        shown = train.images[near.ravel()].reshape(*near.shape, *train.images.shape[1:])
        right = train.labels[near] == test.labels[queries][:, None]
        images_pictures.neighbors(test.images[queries], shown, right, folder / "neighbors.png")

    @functools.cached_property
    def _of_pixels(self) -> Accuracies:
        """The probes on pixels, the same for every seed."""
        most = self._pixels.images
        data = dataclasses.replace(
            self._data, train=_at_most(self._data.train, most), test=_at_most(self._data.test, most)
        )
        train = self._pixels.features(data.train.images)
        return self._accuracies(data, train, self._pixels.features(data.test.images))

    def _accuracies(self, data: ImageSet, train: np.ndarray, test: np.ndarray) -> Accuracies:
        """The probes on features [N, D] of training images and [M, D] of test images."""
        labels = data.train.labels
        test_labels = data.test.labels
        classes = len(data.classes)
        return Accuracies(
            knn.accuracy(train, labels, test, test_labels),
            linear_probe.accuracy(train, labels, test, test_labels, classes),
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
    labels = None if split.labels is None else split.labels[chosen]
    return Split(_Some(split.images, chosen), labels)


def at_once(image_shape: tuple[int, int, int]) -> int:
    """How many images (H, W, C) networks get at once: 500 small ones, of large ones fewer.

    At 224 x 224 pixels, where a network's first features alone are 3 MB an image, it is 66.
    """
    return max(1, min(_AT_ONCE, _NUMBERS_AT_ONCE // math.prod(image_shape)))


def in_batches(
    fn: Callable[[np.ndarray], jax.Array], examples: np.ndarray | Lazy, batch_size: int
) -> np.ndarray:
    """The rows [N, ...] that a jitted function makes of examples [N, ...], in batches of one size.

    Args:
      fn: maps [batch_size, ...] to [batch_size, ...].
      examples: an array, or images that are decoded when asked for.
      batch_size: examples at once; the last batch is padded with zeros.
    """
    count = examples.shape[0]
    found = []
    for start in range(0, count, batch_size):
        batch = examples[np.arange(start, min(start + batch_size, count))]
        padding = np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)
        found.append(np.asarray(fn(np.concatenate([batch, padding])))[: len(batch)])
    return np.concatenate(found)
