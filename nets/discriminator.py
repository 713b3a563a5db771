"""Networks from an image to one number: whether it is real.

Shapes: B images, H, W, C of an image, F features of the last layer, K classes.
"""

import math
from typing import Literal

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.conv import Conv2D
from missing_bits.nets.layers import BatchNorm

Network = Literal["conv", "mlp"]
Norm = Literal["none", "batch", "spectral"]

_SMALLEST = 8  # pixels: the longer side of the last map, at most
_FEWEST_STAGES = 2  # of the convolutional network, each of which halves the sides
_SLOPE = 0.2  # of the leaky ReLU below zero
# He et al. 2015, equation 15 with the slope.
_HE = hk.initializers.VarianceScaling(2 / (1 + _SLOPE**2), "fan_in", "truncated_normal")


class Discriminator(hk.Module):
    """An image, perhaps with a class, becomes a logit of being real.

    The convolutional network has a layer of `width` channels, and halves the sides and doubles the
    channels, by windows of 4 x 4 pixels, which overlap evenly: twice, or as often as leads to a map
    of at most 8 x 8. The MLP has two hidden layers of 8 `width` units. A class adds the product of
    the last features and a vector of its own (Miyato and Koyama 2018).

    Args:
      network: "conv" or "mlp".
      width: see above.
      batch_norm: whether each layer but the first and the last is normalized over the batch.
      classes: K; 0 for none.
      name: of the module.
    """

    def __init__(
        self,
        network: Network = "conv",
        width: int = 32,
        batch_norm: bool = False,
        classes: int = 0,
        name: str | None = None,
    ):
        super().__init__(name)
        self._network = network
        self._width = width
        self._batch_norm = batch_norm
        self._classes = classes

    def __call__(self, x: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Logits [B] of images.

        Args:
          x: [B, H, W, C], of mean about 0.
          labels: int [B]; not looked at without classes.
        """
        chex.assert_rank(x, 4)
        features = self._dense(x) if self._network == "mlp" else self._convolve(x)  # [B, F]
        logits = hk.Linear(1, name="logit")(features)[:, 0]
        if self._classes:
            chex.assert_shape(labels, (x.shape[0],))
            one_hot = jax.nn.one_hot(labels, self._classes, dtype=x.dtype)
            directions = hk.Linear(features.shape[1], with_bias=False, name="classes")(one_hot)
            logits += jnp.sum(directions * features, axis=1)
        return logits

    @hk.transparent
    def _dense(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for layer in range(2):
            x = self._activate(hk.Linear(8 * self._width, w_init=_HE)(x), first=layer == 0)
        return x

    @hk.transparent
    def _convolve(self, x: jax.Array) -> jax.Array:
        x = self._activate(Conv2D(self._width, 3, w_init=_HE)(x), first=True)
        stages = 0
        while stages < _FEWEST_STAGES or max(x.shape[1:3]) > _SMALLEST:
            stages += 1
            x = Conv2D(self._width * 2**stages, 4, 2, w_init=_HE)(x)
            x = self._activate(x, first=False)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    @hk.transparent
    def _activate(self, x: jax.Array, first: bool) -> jax.Array:
        if self._batch_norm and not first:
            x = BatchNorm()(x, is_training=True)
        return jax.nn.leaky_relu(x, _SLOPE)
