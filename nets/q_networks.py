"""Q-value networks in Haiku: observations [B, ...] to action values [B, A]."""

from collections.abc import Sequence

import gymnasium as gym
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.errors import require
from missing_bits.nets.conv import Conv2D

_UNBOUNDED = 1e6  # a bound as large is none: float32's largest number stands for infinity
_SMALLEST_SIDE = 3  # pixels: that of the small network's kernel
_NATURE_SIDE = 36  # pixels: with fewer the last of the Nature network's convolutions has no place


def mlp(hidden_sizes: Sequence[int], num_actions: int, x: jax.Array) -> jax.Array:
    """A ReLU network for vectors [B, features]."""
    return hk.nets.MLP([*hidden_sizes, num_actions])(x)  # [B, A]


def centered(space: gym.spaces.Box, observation: jax.Array) -> jax.Array:
    """Vectors [B, features] with every feature that has bounds scaled to [-1, 1]; the others stay.

    MountainCar's velocity, for one, never exceeds 0.07: unscaled, a fresh network is blind to it.
    """
    low = space.low.astype(np.float64)
    high = space.high.astype(np.float64)
    bounded = (np.abs(low) < _UNBOUNDED) & (np.abs(high) < _UNBOUNDED) & (low < high)
    low = np.where(bounded, low, -1.0)
    high = np.where(bounded, high, 1.0)
    middle = jnp.float32((low + high) / 2)
    half = jnp.float32((high - low) / 2)
    return (observation.astype(jnp.float32) - middle[None]) / half[None]


def fractions(space: gym.spaces.Box, observation: jax.Array) -> jax.Array:
    """Images [B, height, width, channels] as float32 in [0, 1]; without bounds they stay."""
    low = float(space.low.min())
    high = float(space.high.max())
    x = observation.astype(jnp.float32)
    if max(abs(low), abs(high)) >= _UNBOUNDED or low >= high:
        return x
    return (x - low) / (high - low)


def nature(hidden_sizes: Sequence[int], num_actions: int, x: jax.Array) -> jax.Array:
    """The network of Mnih et al. (2015) for images [B, height, width, channels].

    Pixels lie in [0, 1]; each side has at least 36 of them. Its head has one hidden layer of 512 in
    the paper; here it has `hidden_sizes`.
    """
    for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = jax.nn.relu(Conv2D(channels, kernel, stride, padding="VALID")(x))
    return mlp(hidden_sizes, num_actions, hk.Flatten()(x))  # [B, A]


def minatar(hidden_sizes: Sequence[int], num_actions: int, x: jax.Array) -> jax.Array:
    """The network of MinAtar (Young and Tian 2019) for images [B, height, width, channels].

    Pixels lie in [0, 1]; each side has at least 3 of them. Its head has one hidden layer of 128 in
    the paper; here it has `hidden_sizes`.
    """
    x = jax.nn.relu(Conv2D(16, 3, 1, padding="VALID")(x))
    return mlp(hidden_sizes, num_actions, hk.Flatten()(x))  # [B, A]


def for_observations(
    space: gym.spaces.Box, hidden_sizes: Sequence[int], num_actions: int
) -> hk.Transformed:
    """The network for a space, as a Haiku transform without state or random keys.

    Images are scaled to [0, 1] by the bounds that the space declares; those with a side below 36
    pixels get the small network.

    Args:
      space: of vectors [features] or images [height, width, channels].
      hidden_sizes: widths of the hidden layers after a vector or a convolution.
      num_actions: A.

    Raises:
      UserError: observations are neither vectors nor images of at least 3 x 3 pixels.
    """
    _check(space.shape)
    is_vector = len(space.shape) == 1
    is_large = min(space.shape[:2]) >= _NATURE_SIDE

    def network(observation: jax.Array) -> jax.Array:
        if is_vector:
            return mlp(hidden_sizes, num_actions, centered(space, observation))
        convolutional = nature if is_large else minatar
        return convolutional(hidden_sizes, num_actions, fractions(space, observation))

    return hk.without_apply_rng(hk.transform(network))


def _check(shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless observations of a shape are vectors or large enough images."""
    is_vector = len(shape) == 1
    is_image = len(shape) == 3 and min(shape[:2]) >= _SMALLEST_SIDE
    require(
        (is_vector or is_image) and min(shape) > 0,
        f"Observations of shape {shape} fit no network: it takes vectors (features,) or images "
        f"(height, width, channels) of at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE} pixels. "
        "Flatten or reshape them in a wrapper of the environment.",
    )
