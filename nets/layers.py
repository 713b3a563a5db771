"""Layers that networks share: batch normalization over all devices, the projector of embeddings."""

from collections.abc import Sequence

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits import collectives


class BatchNorm(hk.Module):
    """Batch normalization (Ioffe and Szegedy 2015) with the statistics of the batch of all devices.

    Statistics are float32 whatever the input, and the variance is a mean of squared deviations: the
    difference E[x^2] - E[x]^2, which Haiku's own layer takes, loses all digits where the mean is
    large.

    Args:
      scale_init: the scale at the start.
      affine: whether there are a scale and an offset.
      decay: of the moving averages that replace the batch's statistics outside of training.
      name: of the module.
    """

    def __init__(
        self,
        scale_init: float = 1.0,
        affine: bool = True,
        decay: float = 0.9,
        name: str | None = None,
    ):
        super().__init__(name)
        self._scale_init = scale_init
        self._affine = affine
        self._decay = decay

    def __call__(
        self, x: jax.Array, is_training: bool, counted: jax.Array | None = None
    ) -> jax.Array:
        """Normalizes x [B, ..., C] over all axes but the last; training also moves the averages.

        Args:
          x: what comes in.
          is_training: whether the batch's statistics are taken, not the averages.
          counted: bool [B, ...], what the statistics are of; None for all.
        """
        size = x.shape[-1:]
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        average_mean = hk.get_state("mean", size, init=jnp.zeros)
        average_variance = hk.get_state("variance", size, init=jnp.ones)
        if is_training:
            mean = _mean(wide, axes, counted)  # [C]
            variance = _mean(jnp.square(wide - _over(mean, x)), axes, counted)
            hk.set_state("mean", self._moved(average_mean, mean))
            hk.set_state("variance", self._moved(average_variance, variance))
        else:
            mean = average_mean
            variance = average_variance
        factor = jax.lax.rsqrt(variance + 1e-5)
        offset = 0.0
        if self._affine:
            start = hk.initializers.Constant(self._scale_init)
            factor *= hk.get_parameter("scale", size, init=start)
            offset = _over(hk.get_parameter("offset", size, init=jnp.zeros), x)
        return ((wide - _over(mean, x)) * _over(factor, x) + offset).astype(x.dtype)

    def _moved(self, average: jax.Array, new: jax.Array) -> jax.Array:
        return self._decay * average + (1 - self._decay) * new


def _mean(x: jax.Array, axes: tuple[int, ...], counted: jax.Array | None) -> jax.Array:
    """The mean over some axes and all devices of what counts."""
    if counted is None:
        return collectives.mean(jnp.mean(x, axes))
    total, count = collectives.total(
        (jnp.sum(jnp.where(counted[..., None], x, 0), axes), jnp.sum(counted))
    )
    return total / jnp.maximum(count, 1)


def _over(vector: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.expand_dims(vector, range(x.ndim - 1))


class Projector(hk.Module):
    """An MLP on features: linear, batch normalization, ReLU; the last layer linear; no biases.

    Args:
      sizes: widths of the layers, in units.
      name: of the module.
    """

    def __init__(self, sizes: Sequence[int], name: str | None = None):
        super().__init__(name)
        self._sizes = sizes

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Embeddings [B, sizes[-1]] of features [B, F]."""
        chex.assert_rank(x, 2)
        for size in self._sizes[:-1]:
            x = hk.Linear(size, with_bias=False)(x)
            x = jax.nn.relu(BatchNorm()(x, is_training))
        return hk.Linear(self._sizes[-1], with_bias=False)(x)
