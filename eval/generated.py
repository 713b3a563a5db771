"""How generated images are judged: nothing is downloaded, all is made of the data itself.

At every evaluation the Frechet distance in the features of a small classifier (judge.py), and the
diversity of samples. At a run's last also precision, recall, density and coverage
(neighborhoods.py), what a discriminator trained afterwards makes of them (fresh.py), and how
far they are from the nearest training image, which tells what was memorized (nearest.py).
Shapes: N real and M generated images, H, W, C of an image.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from missing_bits.data.images import ImageSet
from missing_bits.errors import require, require_positive
from missing_bits.eval import fresh, judge, nearest, neighborhoods
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.frechet import Gaussian, between, gaussian
from missing_bits.eval.judge import Judge
from missing_bits.pictures import generated as pictures
from missing_bits.pictures import images as images_pictures

Draw = Callable[[Any, jax.Array, int], np.ndarray]
"""Maps (learned, key, count) to images, uint8 [count, H, W, C]."""
_FEW = 20  # the fewest images that can be compared
_NEAREST = 500  # samples whose nearest training images are looked for
_COLLAPSED = 0.1  # diversity below which samples count as all the same
_SHOWN = 100  # samples in the picture
_TOLD = (
    "eval/fresh_discriminator_accuracy",
    "eval/nearest_distance",
    "eval/precision",
    "eval/recall",
    "eval/coverage",
    "baseline/judge_accuracy",
)


@dataclass(frozen=True)
class Judging:
    """How generated images are judged."""

    eval_samples: int = 5_000
    """Images that are generated for an evaluation, and real ones to compare with, at most."""
    judge_updates: int = 600
    """How long the classifier is trained in whose features images are compared, in updates."""
    fresh_updates: int = 600
    """How long the discriminator is trained that judges at the end, in updates."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for too few."""
        require_positive(self, "judge_updates", "fresh_updates", prefix=prefix)
        require(
            self.eval_samples >= _FEW,
            f"--{prefix}eval-samples is {self.eval_samples}; give at least {_FEW}.",
        )


class Judged:
    """Judges generated images by a set of real ones.

    Args:
      data: the real ones; those of its training split are what is compared with.
      judging: how.

    Raises:
      UserError: there are too few, or they are all the same.
    """

    def __init__(self, data: ImageSet, judging: Judging) -> None:
        for name, split in (("train", data.train), ("test", data.test)):
            count = split.images.shape[0]
            require(
                count >= _FEW,
                f"There are too few images to {name} on, {count}, to compare generated ones with: "
                f"give at least {_FEW}.",
            )
        few = judge.some(data.train, judging.eval_samples).images
        require(
            bool((few != few[:1]).any()),
            "All images to train on are the same: there is nothing to generate. Give others.",
        )
        self._data = data
        self._judging = judging
        self._judge = Judge(data, judging.judge_updates)

    def evaluation(self, draw: Draw) -> Evaluation:
        """Scores, baselines and pictures of what draws images."""

        def scores(learned: Any, key: jax.Array, last: bool) -> dict[str, float]:
            return self.scores(functools.partial(draw, learned), key, last)

        def drawn(learned: Any, seed: int, folder: Path) -> None:
            self.pictures(functools.partial(draw, learned), seed, folder)

        protocol = {
            "features": self._judge.described,
            "real images": len(self._real),
            "generated images": self._judging.eval_samples,
            "image shape": list(self._data.shape),
        }
        against = (
            f"a half of {len(self._real):,} real images with the other, in features "
            f"{self._judge.described}"
        )
        headline = Headline("eval/frechet_distance", larger_is_better=False)
        return Evaluation(headline, scores, self.baselines, drawn, against, protocol, _TOLD)

    def scores(
        self, draw: Callable[[jax.Array, int], np.ndarray], key: jax.Array, last: bool
    ) -> dict[str, float]:
        """The metrics "eval/..." of what draws images from (key, count); the dear ones at last."""
        sample_key, other_key, fresh_key = jax.random.split(key, 3)
        count = self._judging.eval_samples
        images = draw(sample_key, count)
        features = self._judge.features(images)
        found = gaussian(features)
        spread = np.trace(found.covariance) / np.trace(self._gaussian.covariance)
        diversity = float(np.sqrt(spread))
        if last and diversity < _COLLAPSED:
            warnings.warn(
                f"The samples have collapsed: they deviate by {diversity:.3f} of what real images "
                "do. Try a smaller learning rate or a stronger penalty.",
                stacklevel=2,
            )
        scores = {
            "eval/frechet_distance": between(found, self._gaussian),
            "eval/diversity": diversity,
        }
        if not last:
            return scores
        test = judge.some(self._data.test, count).images
        accuracy = fresh.accuracy(
            (self._real, images),
            (test, draw(other_key, len(test))),
            self._judging.fresh_updates,
            fresh_key,
        )
        near = nearest.find(images[:_NEAREST], self._train)
        return {
            **scores,
            **neighborhoods.overlap(self._features, features).metrics,
            "eval/fresh_discriminator_accuracy": accuracy,
            "eval/nearest_distance": float(np.median(near.distances)),
        }

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """What real images reach, and how good the judge is."""
        # At random: the order of a file may go with classes.
        order = np.random.default_rng(0).permutation(len(self._features))
        one, other = map(gaussian, np.array_split(self._features[order], 2))
        test = judge.some(self._data.test, _NEAREST).images
        near = nearest.find(test, self._train)
        found = {
            "baseline/halves_frechet_distance": between(one, other),
            "baseline/test_nearest_distance": float(np.median(near.distances)),
        }
        if self._judge.labeled and self._data.test.labels is not None:
            found["baseline/judge_accuracy"] = self._judge.accuracy(self._data.test)
        return found

    def pictures(
        self, draw: Callable[[jax.Array, int], np.ndarray], seed: int, folder: Path
    ) -> None:
        """Samples, and some beside their nearest training images."""
        images = draw(jax.random.key(seed), _SHOWN)
        images_pictures.grid(images, 10, "Samples", folder / "samples.png")
        near = nearest.find(images[:8], self._train, k=6)
        shown = self._train[near.indices]
        pictures.nearest(images[:8], shown, folder / "nearest_images.png")

    @functools.cached_property
    def _train(self) -> np.ndarray:
        """Training images in memory."""
        return judge.some(self._data.train, 60_000).images

    @functools.cached_property
    def _real(self) -> np.ndarray:
        """Training images that are compared with."""
        return judge.some(self._data.train, self._judging.eval_samples).images

    @functools.cached_property
    def _features(self) -> np.ndarray:
        """Their features."""
        return self._judge.features(self._real)

    @functools.cached_property
    def _gaussian(self) -> Gaussian:
        return gaussian(self._features)


def to_bytes(images: jax.Array) -> np.ndarray:
    """Images in [0, 1] as the bytes that real ones are."""
    return np.round(np.clip(np.asarray(images), 0, 1) * 255).astype(np.uint8)
