"""Losses of generative adversarial networks, and penalties on a discriminator's gradient.

A logit l says that an image is real with probability s(l), s the logistic function.
Shapes: B images (on one device), H, W, C of an image.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

Loss = Literal["minimax", "non_saturating", "hinge", "wgan_gp"]


def discriminator(loss: Loss, real: jax.Array, fake: jax.Array) -> jax.Array:
    """The discriminator's loss, a mean over images.

    "minimax" and "non_saturating" (Goodfellow et al. 2014, equation 1): -log s(l) of real images
    and -log(1 - s(l)) of generated ones. "hinge" (Lim and Ye 2017): how much real images fall short
    of 1, and generated ones exceed -1. "wgan_gp" (Gulrajani et al. 2017, equation 3, without its
    penalty): the difference of the means.

    Args:
      loss: by name.
      real: logits [B] of real images.
      fake: logits [B] of generated images.
    """
    chex.assert_rank([real, fake], 1)
    if loss in ("minimax", "non_saturating"):
        return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))
    if loss == "hinge":
        return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))
    return jnp.mean(fake) - jnp.mean(real)


def generator(loss: Loss, fake: jax.Array) -> jax.Array:
    """The generator's loss, a mean over images.

    "minimax": log(1 - s(l)), as the game is stated, whose gradient vanishes where the
    discriminator is sure. "non_saturating": -log s(l) (Goodfellow et al. 2014, section 3). "hinge"
    and "wgan_gp": -l.

    Args:
      loss: by name.
      fake: logits [B] of generated images.
    """
    chex.assert_rank(fake, 1)
    if loss == "minimax":
        return -jnp.mean(jax.nn.softplus(fake))
    if loss == "non_saturating":
        return jnp.mean(jax.nn.softplus(-fake))
    return -jnp.mean(fake)


class Sloped(NamedTuple):
    """Logits with their slopes."""

    logits: jax.Array  # [B]
    slopes: jax.Array  # [B, H, W, C], the gradient of each image's logit to the image
    aux: Any


def sloped(score: Callable[[jax.Array], tuple[jax.Array, Any]], x: jax.Array) -> Sloped:
    """Logits of images, and how they change with these, from one pass.

    It is differentiable once more in what the score depends on.

    Args:
      score: maps images [B, H, W, C], each apart from the others, to logits [B] and something else.
      x: [B, H, W, C].
    """
    logits, pull, aux = jax.vjp(score, x, has_aux=True)
    (slopes,) = pull(jnp.ones_like(logits))
    return Sloped(logits, slopes, aux)


def r1(slopes: jax.Array) -> jax.Array:
    """Half the mean squared length of slopes at real images (Mescheder et al. 2018, equation 9).

    Lengths are over all numbers of an image. The weight, gamma, is the caller's.
    """
    return jnp.mean(_squares(slopes)) / 2


def gradient_penalty(slopes: jax.Array) -> jax.Array:
    """How far slopes are from length 1: the mean of (|slope| - 1)^2.

    Gulrajani et al. 2017, equation 3; taken at points between real and generated images. The
    weight, lambda, is the caller's.
    """
    # The root has no gradient at 0.
    lengths = jnp.sqrt(_squares(slopes) + 1e-12)
    return jnp.mean(jnp.square(lengths - 1))


def between(real: jax.Array, fake: jax.Array, shares: jax.Array) -> jax.Array:
    """Points [B, H, W, C] on the lines from generated images to real ones.

    Args:
      real: [B, H, W, C].
      fake: [B, H, W, C].
      shares: [B] of the real ones, uniform in [0, 1].
    """
    chex.assert_equal_shape([real, fake])
    shares = shares[:, None, None, None]
    return shares * real + (1 - shares) * fake


def _squares(slopes: jax.Array) -> jax.Array:
    """Squared lengths [B]."""
    return jnp.sum(jnp.square(slopes), axis=tuple(range(1, slopes.ndim)))
