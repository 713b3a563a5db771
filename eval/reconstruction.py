"""How well images come back from a few numbers: their error, and that of principal components.

Shapes: N images, D numbers in each, Z numbers that they come back from.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.images import ImageSet
from missing_bits.eval import subsets
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.pictures import images as pictures_of_images

_TESTED = 10_000  # test images, at most, that are reconstructed
_DRAWN = 16
_FITTED = 1 << 27  # numbers of the training images, at most, that components are made of: 0.5 GB


def evaluation(
    data: ImageSet, reconstruct: Callable[[Any, jax.Array], jax.Array], size: int
) -> Evaluation:
    """Scores, a baseline and pictures of what comes back.

    Args:
      data: images.
      reconstruct: maps (learned, images [B, H, W, C] in [0, 1]) to images of the same shape.
      size: Z.
    """
    back = jax.jit(lambda learned, x: jnp.clip(reconstruct(learned, x), 0, 1))

    def scores(learned: Any, key: jax.Array, last: bool) -> dict[str, float]:
        total = 0.0
        for _, x in subsets.batches(data.test, _TESTED):
            total += float(jnp.sum(jnp.square(back(learned, x) - x)))
        count = len(subsets.chosen(data.test, _TESTED))
        return {"eval/reconstruction_error": total / (count * math.prod(data.shape))}

    @functools.cache
    def of_components() -> float:
        """The error of as many principal components of training images: for every seed."""
        return components_error(data, size)

    def baselines(key: jax.Array) -> dict[str, float]:
        return {"baseline/pca_reconstruction_error": of_components()}

    def pictures(learned: Any, seed: int, folder: Path) -> None:
        x = subsets.read(data.test, subsets.chosen(data.test, _DRAWN))
        title = f"Images, and what comes back of them from {size} numbers"
        pictures_of_images.cards([x, back(learned, x)], 4, title, folder / "reconstructions.png")

    headline = Headline("eval/reconstruction_error", larger_is_better=False)
    return Evaluation(headline, scores, baselines, pictures, f"{size} principal components")


def components_error(data: ImageSet, size: int) -> float:
    """The mean squared error of a number of test images that are projected to a plane.

    The plane is that of the first `size` principal components of training images, of all of them
    where they take at most half a gigabyte, else of some. What lies beyond [0, 1] is cut, as it is
    of networks.
    """
    from sklearn.decomposition import PCA

    most = max(size + 1, _FITTED // math.prod(data.shape))
    train = _flat(subsets.read(data.train, subsets.chosen(data.train, most)))
    plane = PCA(min(size, *train.shape), random_state=0).fit(train)
    total = 0.0
    for _, x in subsets.batches(data.test, _TESTED):
        x = _flat(x)
        there = plane.inverse_transform(plane.transform(x))
        total += float(np.sum(np.square(np.clip(there, 0, 1) - x, dtype=np.float64)))
    return total / (len(subsets.chosen(data.test, _TESTED)) * math.prod(data.shape))


def _flat(images: jax.Array) -> np.ndarray:
    """[N, D] of images [N, H, W, C]."""
    return np.asarray(images).reshape(len(images), -1)
