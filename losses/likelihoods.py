"""How likely an image is under the numbers that a decoder gives for it, in nats per image.

Every function sums over the pixels of an image and never averages: a mean would weigh the
likelihood against other terms by the number of pixels.
Shapes: leading axes ... of any number, such as the batch; H, W, C of an image; a decoder gives
numbers [..., H, W, C], or, for a mean and the logarithm of a scale, [..., H, W, 2 C]. Images are in
[0, 1].
"""

import math

import chex
import jax
import jax.numpy as jnp

_LEVELS = 255  # steps between the values of a byte
_LEAST_SCALE = 1 / 2550  # of the logistic: a tenth of a step
_START = -2.0  # logarithm of the scale where a decoder's numbers are zero
_SMALLEST = 1e-12


def bernoulli(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """log p(x), [...], of images whose pixels are 0 or 1, under logits [..., H, W, C].

    Of grays between it is the negative cross-entropy: a distance, but no likelihood.
    """
    chex.assert_equal_shape_suffix([numbers, x], 3)
    return jnp.sum(x * numbers - jax.nn.softplus(numbers), axis=(-3, -2, -1))


def squared_error(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """-|x - numbers|^2 / 2, [...]: a Gaussian of deviation 1 but for its constant."""
    chex.assert_equal_shape_suffix([numbers, x], 3)
    return -0.5 * jnp.sum(jnp.square(x - numbers), axis=(-3, -2, -1))


def gaussian(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """log p(x), [...], a density, under means and log deviations [..., H, W, 2 C]."""
    mean, log_scale = _parts(numbers, x)
    log_scale += _START
    # A constant pixel has no deviation: without a bound its density would grow for ever.
    log_scale = jnp.maximum(log_scale, math.log(_LEAST_SCALE))
    standard = jnp.square((x - mean) * jnp.exp(-log_scale))
    log_density = -0.5 * standard - log_scale - 0.5 * math.log(2 * math.pi)
    return jnp.sum(log_density, axis=(-3, -2, -1))


def logistic(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """log P(x), [...], of bytes under a logistic that is cut into steps (Kingma et al. 2016).

    Equation: P(x) = s((x + 1/510 - mean) / scale) - s((x - 1/510 - mean) / scale), s the logistic
    function; 0 and 1 get all that lies beyond them too (Salimans et al. 2017, equation 2). The
    probabilities of the 256 values sum to 1.

    Args:
      numbers: means and log scales, [..., H, W, 2 C]; a log scale of 0 stands for exp(-2).
      x: bytes / 255.
    """
    mean, log_scale = _parts(numbers, x)
    log_scale = jnp.maximum(log_scale + _START, math.log(_LEAST_SCALE))
    inverse = jnp.exp(-log_scale)
    half = 0.5 / _LEVELS
    above = (x - mean + half) * inverse
    below = (x - mean - half) * inverse
    # s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)) keeps its digits where both are near 0 or near 1.
    width = 2 * half * inverse  # a - b
    between = jax.nn.log_sigmoid(above) + jax.nn.log_sigmoid(-below)
    between += jnp.log(jnp.maximum(-jnp.expm1(-width), _SMALLEST))
    log_p = jnp.where(x < half, jax.nn.log_sigmoid(above), between)
    log_p = jnp.where(x > 1 - half, jax.nn.log_sigmoid(-below), log_p)
    return jnp.sum(log_p, axis=(-3, -2, -1))


def bits_per_dimension(nats: float, image_shape: tuple[int, int, int]) -> float:
    """The bits for each number of an image (H, W, C) that so many nats, -log P(x), are."""
    return nats / (math.log(2) * math.prod(image_shape))


def _parts(numbers: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    chex.assert_equal(numbers.shape[-1], 2 * x.shape[-1])
    mean, log_scale = jnp.split(numbers, 2, axis=-1)
    return mean, log_scale
