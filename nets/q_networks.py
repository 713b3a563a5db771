"""Q-value networks in Haiku: observations [B, ...] to action values [B, A]."""

from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp


def mlp(hidden_sizes: Sequence[int], num_actions: int, observation: jax.Array) -> jax.Array:
    """A ReLU network for vectors [B, features]."""
    return hk.nets.MLP([*hidden_sizes, num_actions])(observation.astype(jnp.float32))  # [B, A]


def nature(hidden_sizes: Sequence[int], num_actions: int, observation: jax.Array) -> jax.Array:
    """The network of Mnih et al. (2015) for images [B, height, width, channels]; uint8 is scaled to [0, 1] here.

    Its head has one hidden layer of 512 in the paper; here it has `hidden_sizes`.
    """
    scale = 255.0 if observation.dtype == jnp.uint8 else 1.0
    x = observation.astype(jnp.float32) / scale
    for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = jax.nn.relu(hk.Conv2D(channels, kernel, stride, padding="VALID")(x))
    return hk.nets.MLP([*hidden_sizes, num_actions])(hk.Flatten()(x))  # [B, A]


def for_observations(shape: tuple[int, ...], hidden_sizes: Sequence[int], num_actions: int) -> hk.Transformed:
    """The network for vectors or images, as a Haiku transform without state or random keys."""
    network = mlp if len(shape) == 1 else nature
    return hk.without_apply_rng(hk.transform(lambda x: network(hidden_sizes, num_actions, x)))
