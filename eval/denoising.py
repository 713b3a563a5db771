"""How well noise is removed from images, beside filters whose strength is tuned.

The measure is the peak signal-to-noise ratio, -10 log10 of the mean squared error of an image in
[0, 1], in decibels, averaged over images. The noise of test images is the same in every evaluation
and for every seed; filters get the same noisy images, and a strength for each is chosen on others,
of the training split. What lies beyond [0, 1] is cut.
Shapes: n images, H, W, C of an image.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.ndimage

from missing_bits.data.images import ImageSet, Split
from missing_bits.eval import subsets
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.pictures import images as pictures_of_images

_TESTED = 500  # test images, at most
_TUNED_ON = 100  # training images, at most, that the strength of a filter is chosen on
_DRAWN = 8
_LEAST_ERROR = 1e-10  # of an image: 100 dB

Filter = Callable[[np.ndarray], np.ndarray]  # of images [n, H, W, C]


class Noisy(NamedTuple):
    """Images with noise."""

    clean: np.ndarray
    """float32 [n, H, W, C] in [0, 1]."""
    noisy: np.ndarray
    """float32 [n, H, W, C], anywhere."""


def evaluation(
    data: ImageSet, denoise: Callable[[Any, jax.Array], jax.Array], noise: float
) -> Evaluation:
    """Scores, filters and pictures of a denoiser.

    Args:
      data: images.
      denoise: maps (learned, noisy images [B, H, W, C]) to images of the same shape.
      noise: deviation of the Gaussian noise, of pixels in [0, 1].
    """
    denoised = jax.jit(denoise)

    @functools.cache
    def tested() -> Noisy:
        return with_noise(data.test, _TESTED, noise, 0)

    @functools.cache
    def tuned() -> dict[str, Filter]:
        """The filters, each at its best strength: for every seed."""
        examples = with_noise(data.train, _TUNED_ON, noise, 1)
        return {name: best(some, examples) for name, some in filters(noise).items()}

    @functools.cache
    def of_filters() -> dict[str, float]:
        clean, noisy = tested()
        found = {f"baseline/{name}_psnr": psnr(fn(noisy), clean) for name, fn in tuned().items()}
        return found | {"baseline/noisy_psnr": psnr(noisy, clean)}

    def by_network(learned: Any, noisy: np.ndarray) -> np.ndarray:
        at_once = subsets.at_once(noisy.shape[1:])
        parts = [noisy[i : i + at_once] for i in range(0, len(noisy), at_once)]
        return np.concatenate([np.asarray(denoised(learned, part)) for part in parts])

    def scores(learned: Any, key: jax.Array, last: bool) -> dict[str, float]:
        clean, noisy = tested()
        return {"eval/psnr": psnr(by_network(learned, noisy), clean)}

    def baselines(key: jax.Array) -> dict[str, float]:
        return of_filters()

    def pictures(learned: Any, seed: int, folder: Path) -> None:
        """Test images, noisy, denoised, and as each filter leaves them."""
        clean, noisy = (some[:: max(1, len(some) // _DRAWN)][:_DRAWN] for some in tested())
        by_filters = [fn(noisy) for fn in tuned().values()]
        sets = [clean, noisy, by_network(learned, noisy), *by_filters]
        names = ", ".join(name.replace("_", " ") for name in tuned())
        title = f"Original, noisy, denoised; by filters: {names}"
        pictures_of_images.cards(
            [np.clip(x, 0, 1) for x in sets], 1, title, folder / "denoised.png"
        )

    headline = Headline("eval/psnr")
    against = "Gaussian, median and non-local-means filters"
    return Evaluation(headline, scores, baselines, pictures, against, {"noise": noise})


def with_noise(split: Split, most: int, noise: float, seed: int) -> Noisy:
    """At most so many images of a split, evenly spaced, the same noise at every call."""
    clean = np.asarray(subsets.read(split, subsets.chosen(split, most)), np.float32)
    drawn = np.random.default_rng(seed).standard_normal(clean.shape, np.float32)
    return Noisy(clean, clean + np.float32(noise) * drawn)


def psnr(images: np.ndarray, clean: np.ndarray) -> float:
    """The mean over images [n, H, W, C] of -10 log10 of the mean squared error, in decibels."""
    errors = np.square(np.clip(images, 0, 1) - clean, dtype=np.float64).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(errors, _LEAST_ERROR))))


def filters(noise: float) -> Mapping[str, Sequence[Filter]]:
    """Each kind of filter at several strengths, for a deviation of the noise."""
    return {
        "gaussian": [functools.partial(_gaussian, width) for width in np.arange(0.4, 4.2, 0.2)],
        "median": [functools.partial(_median, size) for size in (2, 3, 4, 5, 7, 9, 11)],
        "nonlocal_means": [
            functools.partial(_nonlocal_means, noise, share, patch, reach)
            for patch in (3, 5, 7)
            for reach in (7, 11)
            for share in (0.4, 0.6, 0.8, 1.0, 1.3)
        ],
    }


def best(some: Sequence[Filter], examples: Noisy) -> Filter:
    """The filter with the largest ratio on examples."""
    return max(some, key=lambda fn: psnr(fn(examples.noisy), examples.clean))


def _gaussian(width: float, images: np.ndarray) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(images, (0, width, width, 0))


def _median(size: int, images: np.ndarray) -> np.ndarray:
    return scipy.ndimage.median_filter(images, (1, size, size, 1))


def _nonlocal_means(
    noise: float, share: float, patch: int, reach: int, images: np.ndarray
) -> np.ndarray:
    """Non-local means (Buades et al. 2005) that are told the deviation of the noise.

    A pixel becomes a mean of those at most `reach` away, weighted by how alike the patches around
    them are.
    """
    from skimage.restoration import denoise_nl_means

    def filtered(image: np.ndarray) -> np.ndarray:
        found = denoise_nl_means(
            image, patch, reach, h=share * noise, sigma=noise, fast_mode=True, channel_axis=-1
        )
        return found.reshape(image.shape)  # a single channel is lost there

    return np.stack([filtered(image) for image in images])
