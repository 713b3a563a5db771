"""Distorted views of images, any number of each, on the device.

As in Barlow Twins (Zbontar et al. 2021, section 2.2, after BYOL: Grill et al. 2020, appendix B), in
this order: resized crop, flip, color jitter, gray, blur, solarize. Normalization belongs to the
encoder. What happens to an image depends on its own key alone, not on the batch or on how many
devices share it.
Shapes: B images in a batch, H, W, C of an image, h, w of a view.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from missing_bits.augment import blur, color, geometry
from missing_bits.errors import require, require_between, require_positive


@dataclass(frozen=True)
class View:
    """How one view is made. Probabilities are per image."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest area of the crop, as shares of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width / height of the crop."""
    flip: float = 0.5
    """Probability of a flip from left to right."""
    jitter: float = 0.8
    """Probability that brightness, contrast, saturation and hue change, in random order."""
    brightness: float = 0.4
    """Largest change of brightness, as a share, 0 to 1."""
    contrast: float = 0.4
    """Largest change of contrast, as a share, 0 to 1."""
    saturation: float = 0.2
    """Largest change of saturation, as a share, 0 to 1."""
    hue: float = 0.1
    """Largest shift of hue, in turns of the color circle, 0 to 0.5."""
    gray: float = 0.2
    """Probability that colors turn gray."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and largest deviation of the blur, in pixels of the view."""
    solarize: float = 0.0
    """Probability that values above one half are inverted."""
    size: tuple[int, int] | None = None
    """Height and width of the view, in pixels; None for those of the image."""


@dataclass(frozen=True)
class Views:
    """How images are distorted. Probabilities are per view and image."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest area of the crop, as shares of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width / height of the crop. With both of these 1 and 1, a square image
    stays whole."""
    flip: float = 0.5
    """Probability of a flip from left to right."""
    jitter: float = 0.8
    """Probability that brightness, contrast, saturation and hue change, in random order."""
    brightness: float = 0.4
    """Largest change of brightness, as a share, 0 to 1."""
    contrast: float = 0.4
    """Largest change of contrast, as a share, 0 to 1."""
    saturation: float = 0.2
    """Largest change of saturation, as a share, 0 to 1; gray images have none."""
    hue: float = 0.1
    """Largest shift of hue, in turns of the color circle, 0 to 0.5; gray images have none."""
    gray: float = 0.2
    """Probability that colors turn gray."""
    blur: tuple[float, float] = (0.0, 0.0)
    """Probabilities of a Gaussian blur in the first and in the second view. Published: 1.0 0.1;
    0 at 32x32."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and largest deviation of the blur, in pixels."""
    solarize: tuple[float, float] = (0.0, 0.2)
    """Probabilities, in the first and in the second view, that values above one half are
    inverted."""

    @property
    def first(self) -> View:
        """The first view."""
        return self._view(0)

    @property
    def second(self) -> View:
        """The second view: it differs from the first in the rates of blur and solarize."""
        return self._view(1)

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that cannot run; `prefix` is that of their options."""
        require_positive(self, "crop_scale", "crop_ratio", "blur_sigma", prefix=prefix)
        _check_range(f"--{prefix}crop-scale", self.crop_scale)
        _check_range(f"--{prefix}crop-ratio", self.crop_ratio)
        _check_range(f"--{prefix}blur-sigma", self.blur_sigma)
        largest = self.crop_scale[1]
        require(largest <= 1, f"--{prefix}crop-scale ends at {largest}; a crop is at most 1.")
        shares = ("flip", "jitter", "brightness", "contrast", "saturation", "gray")
        require_between(self, 0, 1, *shares, prefix=prefix)
        require_between(self, 0, 0.5, "hue", prefix=prefix)
        _check_probabilities(f"--{prefix}blur", self.blur)
        _check_probabilities(f"--{prefix}solarize", self.solarize)

    def _view(self, which: int) -> View:
        return View(
            crop_scale=self.crop_scale,
            crop_ratio=self.crop_ratio,
            flip=self.flip,
            jitter=self.jitter,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
            gray=self.gray,
            blur=self.blur[which],
            blur_sigma=self.blur_sigma,
            solarize=self.solarize[which],
        )


def draw(keys: jax.Array, images: jax.Array, views: Sequence[View]) -> list[jax.Array]:
    """Draws several views of every image.

    Args:
      keys: [B], a typed key per image.
      images: [B, H, W, C] uint8.
      views: how to make each of them.

    Returns:
      For each of the views an array [B, h, w, C] float32 in [0, 1], of its own size.
    """
    chex.assert_rank(keys, 1)
    split = jax.vmap(lambda key: jax.random.split(key, len(views)))(keys)  # [B, views]
    return [view(split[:, i], images, how) for i, how in enumerate(views)]


def view(keys: jax.Array, images: jax.Array, how: View) -> jax.Array:
    """Draws one view of every image.

    Args:
      keys: [B], a typed key per image.
      images: [B, H, W, C] uint8.
      how: to make it.

    Returns:
      [B, h, w, C] float32 in [0, 1], of the size that the view says, or else of that of the images.
    """
    chex.assert_rank([keys, images], [1, 4])
    chex.assert_type(images, jnp.uint8)
    return jax.vmap(functools.partial(_distorted, how=how))(keys, images)


def _distorted(key: jax.Array, image: jax.Array, how: View) -> jax.Array:
    """A view [h, w, C] of one image [H, W, C]."""
    height, width, channels = image.shape
    crop, order, factors, others = jnp.split(
        jax.random.uniform(key, (geometry.CROP_DRAWS + 14,)),
        [geometry.CROP_DRAWS, geometry.CROP_DRAWS + 4, geometry.CROP_DRAWS + 8],
    )
    flip, jitter, gray, blurred, sigma, solarized = others

    x = image.transpose(2, 0, 1).astype(jnp.float32) / 255  # [C, H, W]
    box = geometry.crop_box(crop, height, width, how.crop_scale, how.crop_ratio)
    x = geometry.resized_crop(x, box, flip < how.flip, *(how.size or (height, width)))  # [C, h, w]
    if how.jitter:
        strength = jnp.array([how.brightness, how.contrast, how.saturation, how.hue])
        change = jnp.where(jitter < how.jitter, strength * (2 * factors - 1), 0)
        order = jnp.argsort(order if channels == 3 else order[:2])
        x = color.jitter(x, change + jnp.array([1.0, 1.0, 1.0, 0.0]), order)
    x = jnp.where(gray < how.gray, color.luma(x), x)
    if how.blur:
        low, high = how.blur_sigma
        x = jnp.where(blurred < how.blur, blur.gaussian(x, low + (high - low) * sigma), x)
    x = jnp.where(solarized < how.solarize, color.solarize(x), x)
    return jnp.clip(x, 0, 1).transpose(1, 2, 0)  # weights that sum to one, but for rounding


def _check_range(option: str, ends: tuple[float, float]) -> None:
    low, high = ends
    require(low <= high < float("inf"), f"{option} is {low} {high}; give the smaller number first.")


def _check_probabilities(option: str, pair: tuple[float, float]) -> None:
    first, second = pair
    require(
        0 <= first <= 1 and 0 <= second <= 1,
        f"{option} is {first} {second}; probabilities lie between 0 and 1.",
    )
