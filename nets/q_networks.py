"""Q-value networks in Haiku: observations [B, ...] to what each action is worth, [B, A, K]."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium as gym
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.errors import require
from missing_bits.nets.conv import Conv2D

UNBOUNDED = 1e6  # a bound as large is none: float32's largest number stands for infinity
_SMALLEST_SIDE = 3  # pixels: that of the small network's kernel
_NATURE_SIDE = 36  # pixels: with fewer the last of the Nature network's convolutions has no place


def centered(space: gym.spaces.Box, observation: jax.Array) -> jax.Array:
    """Vectors [B, features] with every feature that has bounds scaled to [-1, 1]; the others stay.

    MountainCar's velocity, for one, never exceeds 0.07: unscaled, a fresh network is blind to it.
    """
    low = space.low.astype(np.float64)
    high = space.high.astype(np.float64)
    bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED) & (low < high)
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
    if max(abs(low), abs(high)) >= UNBOUNDED or low >= high:
        return x
    return (x - low) / (high - low)


def nature(x: jax.Array) -> jax.Array:
    """The convolutions of Mnih et al. (2015): images [B, height, width, channels] to features.

    Pixels lie in [0, 1]; each side has at least 36 of them. One hidden layer of 512 follows in the
    paper.
    """
    for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = jax.nn.relu(Conv2D(channels, kernel, stride, padding="VALID")(x))
    return hk.Flatten()(x)  # [B, F]


def minatar(x: jax.Array) -> jax.Array:
    """The convolution of MinAtar (Young and Tian 2019): images [B, height, width, channels] to
    features.

    Pixels lie in [0, 1]; each side has at least 3 of them. One hidden layer of 128 follows in the
    paper.
    """
    return hk.Flatten()(jax.nn.relu(Conv2D(16, 3, 1, padding="VALID")(x)))  # [B, F]


class NoisyLinear(hk.Module):
    """A linear layer whose weights are drawn anew for each call: factorized Gaussian noise
    (Fortunato et al. 2018, equations 9 to 11).

    Without a random key the weights are their means.

    Args:
      size: outputs.
      scale: of the noise at the start, sigma_0 in the paper.
    """

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self._size = size
        self._scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., size]."""
        inputs = x.shape[-1]
        bound = inputs**-0.5
        drawn = hk.initializers.RandomUniform(-bound, bound)
        constant = hk.initializers.Constant(self._scale * bound)
        w = hk.get_parameter("w", (inputs, self._size), init=drawn)
        b = hk.get_parameter("b", (self._size,), init=drawn)
        w_scale = hk.get_parameter("w_scale", (inputs, self._size), init=constant)
        b_scale = hk.get_parameter("b_scale", (self._size,), init=constant)
        key = hk.maybe_next_rng_key()
        if key is not None:
            in_key, out_key = jax.random.split(key)
            of_inputs = _signed_root(jax.random.normal(in_key, (inputs,)))
            of_outputs = _signed_root(jax.random.normal(out_key, (self._size,)))
            w = w + w_scale * jnp.outer(of_inputs, of_outputs)
            b = b + b_scale * of_outputs
        return x @ w + jax.lax.broadcast_to_rank(b, x.ndim)


def _signed_root(x: jax.Array) -> jax.Array:
    # The barrier: else XLA takes the root anew for every weight rather than for every input.
    return jax.lax.optimization_barrier(jnp.sign(x) * jnp.sqrt(jnp.abs(x)))


class Shape(NamedTuple):
    """What a Q-network is made of, besides the observations."""

    hidden_sizes: Sequence[int]
    """Widths of the hidden layers after a vector or a convolution."""
    num_actions: int
    outputs: int = 1
    """Numbers for each action and, where these are asked for, quantile."""
    dueling: bool = False
    """Two streams, of the state's value and the actions' advantages (Wang et al. 2016)."""
    noisy: float = 0.0
    """Scale of the noise in the layers of the streams; 0 for plain ones."""


_COSINES = 64  # that describe a quantile (Dabney et al. 2018b, section 3.1)


def q_values(shape: Shape, features: jax.Array, taus: jax.Array | None) -> jax.Array:
    """The streams after a vector's first layers or an image's convolutions.

    Args:
      shape: of the network; its last hidden layer, or all for images, stand in the streams.
      features: [B, F].
      taus: [B, K] quantiles that are asked for, or None.

    Returns:
      [B, A, outputs], or [B, A, K] for quantiles.
    """
    outputs = shape.outputs
    if taus is not None:
        # Equation 4: every feature times a function of the quantile.
        steps = jnp.pi * jnp.arange(_COSINES, dtype=jnp.float32)
        cosines = jnp.cos(taus[..., None] * steps[None, None])  # [B, K, cosines]
        features = features[:, None] * jax.nn.relu(hk.Linear(features.shape[-1])(cosines))
    raw = _stream(shape, features, shape.num_actions * outputs)
    raw = raw.reshape(*raw.shape[:-1], shape.num_actions, outputs)
    if shape.dueling:
        value = _stream(shape, features, outputs)
        raw = raw - jnp.mean(raw, axis=-2, keepdims=True) + value[..., None, :]
    if taus is None:
        return raw
    return jnp.moveaxis(raw[..., 0], 1, 2)  # [B, K, A] -> [B, A, K]


def _stream(shape: Shape, x: jax.Array, size: int) -> jax.Array:
    """Hidden layers and one of `size`, noisy or not."""
    for width in shape.hidden_sizes:
        x = jax.nn.relu(_layer(shape, width)(x))
    return _layer(shape, size)(x)


def _layer(shape: Shape, size: int) -> Callable[[jax.Array], jax.Array]:
    return NoisyLinear(size, shape.noisy) if shape.noisy else hk.Linear(size)


def for_observations(space: gym.spaces.Box, shape: Shape) -> hk.Transformed:
    """The network for a space: apply(params, key or None, observations, taus or None).

    Images are scaled to [0, 1] by the bounds that the space declares; those with a side below 36
    pixels get the small network. Noise is drawn with the key; without one there is none.

    Args:
      space: of vectors [features] or images [height, width, channels].
      shape: of the network.

    Returns:
      A Haiku transform without state, to [B, A, K].

    Raises:
      UserError: observations are neither vectors nor images of at least 3 x 3 pixels.
    """
    check_shape(space.shape)
    is_vector = len(space.shape) == 1
    is_large = min(space.shape[:2]) >= _NATURE_SIDE

    def network(observation: jax.Array, taus: jax.Array | None) -> jax.Array:
        if is_vector:
            x = centered(space, observation)
            for width in shape.hidden_sizes[:-1]:
                x = jax.nn.relu(hk.Linear(width)(x))
            return q_values(shape._replace(hidden_sizes=shape.hidden_sizes[-1:]), x, taus)
        convolutional = nature if is_large else minatar
        return q_values(shape, convolutional(fractions(space, observation)), taus)

    return hk.transform(network)


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless observations of a shape are vectors or large enough images."""
    is_vector = len(shape) == 1
    is_image = len(shape) == 3 and min(shape[:2]) >= _SMALLEST_SIDE
    require(
        (is_vector or is_image) and min(shape) > 0,
        f"Observations of shape {shape} fit no network: it takes vectors (features,) or images "
        f"(height, width, channels) of at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE} pixels. "
        "Flatten or reshape them in a wrapper of the environment.",
    )
