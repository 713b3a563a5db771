"""Encoders of images: a network by name, with the normalization of what it was trained on."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from missing_bits.augment import color
from missing_bits.encoders.variables import Variables
from missing_bits.nets import vision


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder of images with its normalization: all that its file must say besides its variables."""

    network: str
    """A name that `vision.make` knows."""
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    bfloat16: bool = False
    """Compute in bfloat16."""
    patch: int = 0
    """Side of a vision transformer's patches, in pixels; 0 for what suits the images."""

    def __post_init__(self) -> None:
        vision.check(self.network, self.image_shape, self.patch)

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        variables = jax.eval_shape(self.init, jax.random.key(0))
        return jax.eval_shape(self.apply, variables, jnp.zeros((2, *self.image_shape)))[0].shape[1]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        images = jnp.zeros((2, *self.image_shape), jnp.float32)
        return Variables(
            *vision.make(self.network, self.bfloat16, self.patch).init(key, images, True)
        )

    def apply(
        self, variables: Variables, images: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, Any]:
        """Features of images.

        Args:
          variables: of this encoder.
          images: [B, H, W, C], uint8, or float in [0, 1].
          is_training: whether batch normalization uses and gathers the batch's statistics.

        Returns:
          Features [B, D], float32, and the new state.
        """
        network = vision.make(self.network, self.bfloat16, self.patch)
        return network.apply(
            variables.params, variables.state, None, self.normalized(images), is_training
        )

    def tokens(self, variables: Variables, images: jax.Array, **masking: jax.Array) -> jax.Array:
        """Tokens of a vision transformer, float32: the class token [B, 1, D], then the patches'.

        Args:
          variables: of this encoder.
          images: as for `apply`.
          masking: `kept`, or `mask` and `mask_token`, as `vision.VisionTransformer.tokens` takes them.
        """
        inputs = (
            self.normalized(images),
            *(masking.get(name) for name in ("kept", "mask", "mask_token")),
        )
        return vision.tokens_of(self.network, self.bfloat16, self.patch)(variables.params, *inputs)

    def normalized(self, images: jax.Array) -> jax.Array:
        """Images as the network gets them: float32 [B, H, W, C], each channel of mean 0 and deviation 1."""
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        return color.normalize(images, self.mean, self.std)
