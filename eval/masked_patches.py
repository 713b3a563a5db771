"""How well hidden patches of images are restored: their error, the mean patch's, and pictures.

Shapes: B images in a batch, H, W, C of an image, L patches, M of them hidden, P numbers in each, F
features.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from missing_bits.augment.masking import Normalized
from missing_bits.augment.patches import Masks, Patches
from missing_bits.data.images import ImageSet
from missing_bits.eval import subsets
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.pictures import images as pictures_of_images

_TESTED = 500  # test images, at most, whose patches are restored
_COUNTED = 2_000  # training images, at most, that the mean patch is made of
_DRAWN = 12


class Restored(NamedTuple):
    """What networks make of images with hidden patches."""

    predictions: jax.Array  # [B, M, P], of the hidden patches
    features: jax.Array  # [B, F], of what was visible


class Restorer(Protocol):
    """Networks that restore hidden patches; nothing here depends on a number of a row."""

    patches: Patches

    def masks(self, keys: jax.Array) -> Masks:
        """Draws masks, one for each of the keys [B]."""

    def restore(self, params: Any, x: jax.Array, masks: Masks) -> Restored:
        """What parameters make of images [B, H, W, C] in [0, 1] under masks."""

    def targets(self, patches: jax.Array) -> Normalized:
        """What is to be predicted of patches [B, n, P], and how to make pixels of it again."""

    def error(self, predictions: jax.Array, values: jax.Array) -> jax.Array:
        """The mean error of predictions of targets, arrays of one shape."""


def evaluation(data: ImageSet, restorer: Restorer) -> Evaluation:
    """Scores, a baseline and pictures of the parameters of a restorer."""
    patches = restorer.patches
    restore = jax.jit(restorer.restore)

    def scores(params: Any, key: jax.Array, last: bool) -> dict[str, float]:
        """The error on some test images, under the same masks each time."""
        keys = jax.random.split(jax.random.key(0), len(subsets.chosen(data.test, _TESTED)))
        total = 0.0
        for some, x in subsets.batches(data.test, _TESTED):
            masks = restorer.masks(keys[some])
            predictions = restore(params, x, masks).predictions
            targets = restorer.targets(patches.at(x, masks.hidden))
            total += len(x) * float(restorer.error(predictions, targets.values))
        return {"eval/masked_error": total / len(keys)}

    @functools.cache
    def mean_patch_error() -> float:
        """The error of guessing, at each place, the mean of training patches: for every seed."""
        total = 0.0
        for _, x in subsets.batches(data.train, _COUNTED):
            total += jnp.sum(restorer.targets(patches.of(x)).values, axis=0, keepdims=True)
        mean = total / len(subsets.chosen(data.train, _COUNTED))  # [1, L, P]
        error = 0.0
        for _, x in subsets.batches(data.test, _TESTED):
            values = restorer.targets(patches.of(x)).values
            guesses = jnp.broadcast_to(mean, values.shape)
            error += len(x) * float(restorer.error(guesses, values))
        return error / len(subsets.chosen(data.test, _TESTED))

    def baselines(key: jax.Array) -> dict[str, float]:
        return {"baseline/mean_patch_error": mean_patch_error()}

    def pictures(params: Any, seed: int, folder: Path) -> None:
        """Test images, what is visible of them, and what is made of that.

        A prediction of normalized patches gets the true mean and deviation of each patch back, as
        published (He et al. 2022, figure 2).
        """
        x = subsets.read(data.test, subsets.chosen(data.test, _DRAWN))
        masks = restorer.masks(jax.random.split(jax.random.key(seed), len(x)))
        predictions = restore(params, x, masks).predictions
        truth = restorer.targets(patches.at(x, masks.hidden))
        gray = jnp.full_like(predictions, 0.5)
        masked = patches.replaced(x, masks.hidden, gray)
        restored = patches.replaced(x, masks.hidden, predictions * truth.std + truth.mean)
        pictures_of_images.reconstructions(x, masked, restored, folder / "reconstructions.png")

    headline = Headline("eval/masked_error", larger_is_better=False)
    return Evaluation(headline, scores, baselines, pictures, "mean patches")
