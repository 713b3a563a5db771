"""Q-value networks in Haiku: observations [B, ...] to action values [B, A]."""

from collections.abc import Sequence

import gymnasium as gym
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.nets.conv import Conv2D


def mlp(hidden_sizes: Sequence[int], num_actions: int, x: jax.Array) -> jax.Array:
    """A ReLU network for vectors [B, features]."""
    return hk.nets.MLP([*hidden_sizes, num_actions])(x)  # [B, A]


def centerd(space: gym.spaces.Box, observation: jax.Array) -> jax.Array:
    """Vectors [B, features] with every feature that has bounds scaled to [-1, 1]; the others stay.

    MountainCar's velocity, for one, never exceeds 0.07: unscaled, a fresh network is blind to it.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (
        (np.abs(low) < 1e6) & (np.abs(high) < 1e6) & (low < high)
    )  # float32's largest number is no bound
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    middle, half = (low + high) / 2, (high - low) / 2
    return (observation.astype(jnp.float32) - jnp.float32(middle)[None]) / jnp.float32(half)[None]


def nature(hidden_sizes: Sequence[int], num_actions: int, observation: jax.Array) -> jax.Array:
    """The network of Mnih et al. (2015) for images [B, height, width, channels]; uint8 is scaled to [0, 1] here.

    Its head has one hidden layer of 512 in the paper; here it has `hidden_sizes`.
    """
    scale = 255.0 if observation.dtype == jnp.uint8 else 1.0
    x = observation.astype(jnp.float32) / scale
    for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = jax.nn.relu(Conv2D(channels, kernel, stride, padding="VALID")(x))
    return mlp(hidden_sizes, num_actions, hk.Flatten()(x))  # [B, A]


def for_observations(
    space: gym.spaces.Box, hidden_sizes: Sequence[int], num_actions: int
) -> hk.Transformed:
    """The network for a space of vectors or images, as a Haiku transform without state or random keys."""

    def network(observation: jax.Array) -> jax.Array:
        if len(space.shape) == 1:
            return mlp(hidden_sizes, num_actions, centerd(space, observation))
        return nature(hidden_sizes, num_actions, observation)

    return hk.without_apply_rng(hk.transform(network))
