"""What frozen encoders are worth: probes, simpler encoders to compare with, pictures."""

import functools
import warnings
from pathlib import Path

import jax
import numpy as np

from missing_bits.data.images import ImageSet, Split
from missing_bits.eval import collapse, knn, linear_probe, pictures
from missing_bits.nets.handover import ImageEncoder, Variables

_COLLAPSED = 0.1  # feature deviation: 1 where features fill the sphere evenly, 0 where all images have the same


class Probes:
    """Scores encoders of one kind on one labelled set of images.

    Labels reach the probes alone, never the encoder; batch normalisation uses its moving averages; the test split
    takes no part in choosing anything (the linear probe's regularisation is chosen within the training split).

    Args:
      data: the images; without labels in both splits, only the spread of features is told.
      encoder: what is probed.
      batch_size: images that are encoded at once.
    """

    def __init__(self, data: ImageSet, encoder: ImageEncoder, batch_size: int = 500) -> None:
        self._data, self._encoder, self._batch_size = data, encoder, batch_size
        self._encode = jax.jit(lambda variables, images: encoder.apply(variables, images)[0])
        self.labelled = data.train.labels is not None and data.test.labels is not None
        self.headline = "eval/knn_accuracy" if self.labelled else "eval/effective_rank"

    def features(self, variables: Variables, split: Split) -> np.ndarray:
        """Features [N, D] of a split's images."""
        return np.concatenate([self._some(variables, images) for images in self._batches(split)])

    def scores(self, variables: Variables) -> dict[str, float]:
        """The metrics "eval/..." of an encoder; warns if its features have collapsed."""
        test = self.features(variables, self._data.test)
        deviation = float(collapse.feature_deviation(test))
        if deviation < _COLLAPSED:
            warnings.warn(
                f"The features have collapsed: their deviation is {deviation:.3f} (0: the same for all images; 1: "
                "spread evenly). Try a smaller learning rate or a longer warm-up.",
                stacklevel=2,
            )
        spread = {"eval/effective_rank": float(collapse.effective_rank(test)), "eval/feature_deviation": deviation}
        if not self.labelled:
            return spread
        knn_accuracy, linear_accuracy = self._accuracies(self.features(variables, self._data.train), test)
        return {"eval/knn_accuracy": knn_accuracy, "eval/linear_accuracy": linear_accuracy, **spread}

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """The same probes on raw pixels and on an encoder that has learned nothing."""
        if not self.labelled:
            return {}
        random, splits = jax.jit(self._encoder.init)(key), (self._data.train, self._data.test)
        found = {
            "pixels": self._pixel_accuracies,
            "random": self._accuracies(*(self.features(random, split) for split in splits)),
        }
        names = ("knn_accuracy", "linear_accuracy")
        return {f"baseline/{who}_{n}": a for who, both in found.items() for n, a in zip(names, both, strict=True)}

    def pictures(self, variables: Variables, folder: Path) -> None:
        """A map of test features, and the nearest training images of some test images."""
        if not self.labelled:
            return
        train, test = self._data.train, self._data.test
        train_features, test_features = self.features(variables, train), self.features(variables, test)
        pictures.feature_map(test_features, test.labels, self._data.classes, folder / "features.png")
        queries = np.linspace(0, len(test.labels) - 1, 8).astype(int)
        near = knn.neighbours(train_features, test_features[queries], 7)
        shown = train.images[near.ravel()].reshape(*near.shape, *train.images.shape[1:])
        right = train.labels[near] == test.labels[queries][:, None]
        pictures.neighbours(test.images[queries], shown, right, folder / "neighbours.png")

    @functools.cached_property
    def _pixel_accuracies(self) -> tuple[float, float]:
        return self._accuracies(*(_pixels(split) for split in (self._data.train, self._data.test)))

    def _accuracies(self, train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
        labels = self._data.train.labels, self._data.test.labels
        nearest = knn.accuracy(train, labels[0], test, labels[1])
        return nearest, linear_probe.accuracy(train, labels[0], test, labels[1], len(self._data.classes))

    def _batches(self, split: Split):
        count = split.images.shape[0]
        return (split.images[np.arange(i, min(i + self._batch_size, count))] for i in range(0, count, self._batch_size))

    def _some(self, variables: Variables, images: np.ndarray) -> np.ndarray:
        """Features of a batch, which is padded to the one size that is compiled."""
        missing = self._batch_size - len(images)
        padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        return np.asarray(self._encode(variables, padded))[: len(images)]


def _pixels(split: Split) -> np.ndarray:
    images = split.images[np.arange(split.images.shape[0])]
    return images.reshape(len(images), -1).astype(np.float32) / 255
