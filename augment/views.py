"""Two distorted views of every image, on the device.

As in Barlow Twins (Zbontar et al. 2021, section 2.2, after BYOL: Grill et al. 2020, appendix B), in this order:
resized crop, flip, color jitter, gray, blur, solarize. The two views differ in the rates of the last two.
Normalization belongs to the encoder. What happens to an image depends on its own key alone, not on the batch or on
how many devices share it. Shapes: B images in a batch, H, W, C of an image.
"""

import functools
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from missing_bits.augment import blur, color, geometry
from missing_bits.errors import require, require_between, require_positive


@dataclass(frozen=True)
class Views:
    """How images are distorted. Probabilities are per view and image."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest area of the crop, as shares of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width / height of the crop. With both of these 1 and 1, a square image stays whole."""
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
    """Probabilities of a Gaussian blur in the first and in the second view. Published: 1.0 0.1; 0 at 32x32."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and largest deviation of the blur, in pixels."""
    solarize: tuple[float, float] = (0.0, 0.2)
    """Probabilities, in the first and in the second view, that values above one half are inverted."""


def check(config: Views) -> None:
    """Raises `UserError` for settings that cannot run."""
    require_positive(config, "crop_scale", "crop_ratio", "blur_sigma", prefix="views.")
    for name in ("crop_scale", "crop_ratio", "blur_sigma"):
        low, high = getattr(config, name)
        option = f"--views.{name.replace('_', '-')}"
        require(
            low <= high < float("inf"), f"{option} is {low} {high}; give the smaller number first."
        )
    require(
        config.crop_scale[1] <= 1,
        f"--views.crop-scale ends at {config.crop_scale[1]}; a crop is at most 1.",
    )
    require_between(
        config,
        0,
        1,
        "flip",
        "jitter",
        "brightness",
        "contrast",
        "saturation",
        "gray",
        prefix="views.",
    )
    require_between(config, 0, 0.5, "hue", prefix="views.")
    for name in ("blur", "solarize"):
        a, b = getattr(config, name)
        require(
            0 <= a <= 1 and 0 <= b <= 1,
            f"--views.{name} is {a} {b}; probabilities lie between 0 and 1.",
        )


def two_views(keys: jax.Array, images: jax.Array, config: Views) -> tuple[jax.Array, jax.Array]:
    """Draws both views of every image.

    Args:
      keys: [B], a typed key per image.
      images: [B, H, W, C] uint8.
      config: how to distort them.

    Returns:
      Two arrays [B, H, W, C] float32 in [0, 1].
    """
    keys = jax.vmap(jax.random.split)(keys)  # [B, 2]
    return view(keys[:, 0], images, config, 0), view(keys[:, 1], images, config, 1)


def view(keys: jax.Array, images: jax.Array, config: Views, which: int) -> jax.Array:
    """Draws one view of every image.

    Args:
      keys: [B], a typed key per image.
      images: [B, H, W, C] uint8.
      config: how to distort them.
      which: 0 or 1, whether the first or the second view's rates hold.

    Returns:
      [B, H, W, C] float32 in [0, 1].
    """
    chex.assert_rank([keys, images], [1, 4])
    chex.assert_type(images, jnp.uint8)
    return jax.vmap(functools.partial(_distorted, config=config, which=which))(keys, images)


def _distorted(key: jax.Array, image: jax.Array, config: Views, which: int) -> jax.Array:
    """A view of one image [H, W, C]."""
    height, width, channels = image.shape
    crop, order, factors, others = jnp.split(
        jax.random.uniform(key, (geometry.CROP_DRAWS + 14,)),
        [geometry.CROP_DRAWS, geometry.CROP_DRAWS + 4, geometry.CROP_DRAWS + 8],
    )
    flip, jitter, gray, blurred, sigma, solarized = others

    x = image.transpose(2, 0, 1).astype(jnp.float32) / 255  # [C, H, W]
    box = geometry.crop_box(crop, height, width, config.crop_scale, config.crop_ratio)
    x = geometry.resized_crop(x, box, flip < config.flip, height, width)
    if config.jitter:
        strength = jnp.array([config.brightness, config.contrast, config.saturation, config.hue])
        change = jnp.where(jitter < config.jitter, strength * (2 * factors - 1), 0)
        order = jnp.argsort(order if channels == 3 else order[:2])
        x = color.jitter(x, change + jnp.array([1.0, 1.0, 1.0, 0.0]), order)
    x = jnp.where(gray < config.gray, color.luma(x), x)
    if config.blur[which]:
        low, high = config.blur_sigma
        x = jnp.where(blurred < config.blur[which], blur.gaussian(x, low + (high - low) * sigma), x)
    x = jnp.where(solarized < config.solarize[which], color.solarize(x), x)
    return jnp.clip(x, 0, 1).transpose(1, 2, 0)  # weights that sum to one, but for rounding
