"""Operations on the colors of one image, as in torchvision's tensor versions.

Images are float32 in [0, 1] with channels first, [C, H, W]: rows of pixels fill vector registers,
triples do not. Anything but three channels counts as gray: it is its own luma and has no hue.
Random choices are parameters, never branches: under vmap both sides of a branch run. A factor of 1
and a shift of 0 leave an image as it is, exactly.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue (ITU-R 601)
_THRESHOLD = 0.5  # 128 of 255


def luma(image: jax.Array) -> jax.Array:
    """The brightness of each pixel: [1, H, W] of an image [3, H, W]; a gray image itself."""
    chex.assert_rank(image, 3)
    if image.shape[0] != 3:
        return image
    return _LUMA[0] * image[:1] + _LUMA[1] * image[1:2] + _LUMA[2] * image[2:]


def brightness(factor: jax.Array) -> jax.Array:
    """Weights for `blend`, [3]: multiply by `factor`."""
    return jnp.stack([factor, jnp.zeros_like(factor), jnp.zeros_like(factor)])


def contrast(factor: jax.Array) -> jax.Array:
    """Weights for `blend`, [3]: multiply what differs from the mean luma by `factor`."""
    return jnp.stack([factor, jnp.zeros_like(factor), 1 - factor])


def saturation(factor: jax.Array) -> jax.Array:
    """Weights for `blend`, [3]: multiply what differs from the pixel's luma by `factor`."""
    return jnp.stack([factor, 1 - factor, jnp.zeros_like(factor)])


def blend(image: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted sum of an image, its luma and its mean luma, clipped to [0, 1].

    Args:
      image: [C, H, W].
      weights: [3], from `brightness`, `contrast` or `saturation`.
    """
    # Without barriers XLA computes what led here anew for the mean and for every channel.
    image = jax.lax.optimization_barrier(image)
    gray = jax.lax.optimization_barrier(luma(image))
    mean = jnp.mean(gray, keepdims=True)  # [1, 1, 1]
    return jnp.clip(weights[0] * image + (weights[1] * gray + weights[2] * mean), 0, 1)


def hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the colors of an image [3, H, W] round the circle by `shift` turns, in [-0.5, 0.5].

    Hue, chroma and value are those of HSV. Each channel is the value, less the chroma times a
    distance on the circle from the hue to the channel's own, cut to [0, 1].
    """
    chex.assert_shape(image, (3, None, None))
    image = jax.lax.optimization_barrier(image)  # as in `blend`
    red, green, blue = jnp.split(image, 3)
    value = jnp.max(image, axis=0, keepdims=True)
    chroma = value - jnp.min(image, axis=0, keepdims=True)
    # Where XLA computes a channel twice, the two may differ in the last bit: order them, and never
    # ask which one equals the largest. At a tie either sector gives the same hue.
    is_red = (red >= green) & (red >= blue)
    is_green = green >= blue
    across = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    sector = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
    sixths = sector + across / jnp.where(chroma == 0, 1, chroma) + 6 * shift
    sixths = sixths - 6 * jnp.floor(sixths / 6)  # [1, H, W] in [0, 6)
    # Red: 2 - |h - 3|. Green: |h - 2| - 1. Blue: |h - 4| - 1.
    sign = _of_channels(-1, 1, 1)
    center = _of_channels(3, 2, 4)
    offset = _of_channels(2, -1, -1)
    distance = sign * jnp.abs(sixths - center) + offset  # [3, H, W]
    return jnp.where(shift == 0, image, value - chroma * jnp.clip(distance, 0, 1))


def _of_channels(red: float, green: float, blue: float) -> np.ndarray:
    """A number for each channel, [3, 1, 1]."""
    return np.array([red, green, blue], np.float32)[:, None, None]


def jitter(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, one after the other.

    Hue costs most: it is computed once, with places for the three others before and after it, half
    of them unused.

    Args:
      image: [C, H, W].
      factors: [4], of BRIGHTNESS, CONTRAST and SATURATION (at least 0), and HUE (a shift, in
        turns).
      order: [4] the operations in the order they take, a permutation. Of a gray image [2], of the
        first two alone.
    """
    weights = [brightness(factors[BRIGHTNESS]), contrast(factors[CONTRAST])]
    if image.shape[0] != 3:
        for step in jnp.stack(weights)[order]:
            image = blend(image, step)
        return image
    unchanged = brightness(jnp.ones_like(factors[HUE]))
    steps = jnp.stack([*weights, saturation(factors[SATURATION]), unchanged])[order]  # [4, 3]
    turn = jnp.argmax(order == HUE)
    for place in range(HUE):
        image = blend(image, jnp.where(place < turn, steps[place], unchanged))
    image = hue(image, factors[HUE])
    for place in range(1, HUE + 1):
        image = blend(image, jnp.where(place > turn, steps[place], unchanged))
    return image


def solarize(image: jax.Array) -> jax.Array:
    """Inverts the values from one half up, of an image [C, H, W]."""
    return jnp.where(image >= _THRESHOLD, 1 - image, image)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Subtracts the mean of each channel and divides by its deviation.

    Args:
      images: [..., H, W, C], float in [0, 1]: channels last, as networks take them.
      mean: [C], of pixels in [0, 1].
      std: [C], of pixels in [0, 1].
    """
    ones = (1,) * (images.ndim - 1)
    means = jnp.asarray(mean, images.dtype).reshape(*ones, -1)
    deviations = jnp.asarray(std, images.dtype).reshape(*ones, -1)
    chex.assert_equal(means.shape[-1], images.shape[-1])
    return (images - means) / deviations
