"""Encoders of images: a network by name, with the normalization of what it was trained on."""

from dataclasses import dataclass
from typing import Literal

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.augment import color
from missing_bits.data.images import ImageSet
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.nets import vision


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder of images with its normalization.

    These fields are all that its file must say besides its variables.
    """

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
        images = jnp.zeros((2, *self.image_shape))
        features, _ = jax.eval_shape(self.apply, variables, images)
        return features.shape[1]

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        images = jnp.zeros((2, *self.image_shape), jnp.float32)
        network = vision.make(self.network, self.bfloat16, self.patch)
        params, state = network.init(key, images, True)
        return Variables(params, state)

    def apply(
        self, variables: Variables, images: jax.Array, is_training: bool = False
    ) -> tuple[jax.Array, hk.State]:
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

    def tokens(
        self,
        variables: Variables,
        images: jax.Array,
        *,
        kept: jax.Array | None = None,
        mask: jax.Array | None = None,
        mask_token: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens of a vision transformer, float32: the class token [B, 1, D], then the patches'.

        Args:
          variables: of this encoder.
          images: as for `apply`.
          kept: int [B, K], the patches that are seen, or None for all.
          mask: bool [B, L], where `mask_token` stands in place of a patch.
          mask_token: [D].
        """
        network = vision.tokens_of(self.network, self.bfloat16, self.patch)
        return network(variables.params, self.normalized(images), kept, mask, mask_token)

    def normalized(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, C] as the network gets them.

        They are float32, each channel of mean 0 and deviation 1.
        """
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        return color.normalize(images, self.mean, self.std)


@dataclass(frozen=True)
class Encoder:
    """The encoder that a method trains, as options."""

    network: Literal[
        "convnet", "resnet18", "resnet50", "vit_nano", "vit_micro", "vit_tiny", "vit_small"
    ] = "convnet"
    """Encoder. vit_nano is for tests."""
    patch: int = 0
    """Side of a vision transformer's patches, in pixels; 0 for 4, or 16 where images have at least
    64."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16; parameters and statistics stay float32."""
    init_from: str = ""
    """Folder of a run whose encoder to start from; empty for a fresh one."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that fit no images; `prefix` is that of the options."""
        require(
            self.network in vision.NAMES,
            f"--{prefix}network={self.network} is unknown; it is one of {', '.join(vision.NAMES)}.",
        )
        require(
            self.patch >= 0,
            f"--{prefix}patch is {self.patch}; give a number of pixels, or 0 for what suits the "
            "images.",
        )

    def check_patches(self, prefix: str = "") -> None:
        """Raises `UserError` for a network without patches, which masked methods cannot train."""
        fit = [name for name in vision.NAMES if vision.has_patches(name)]
        require(
            self.network in fit,
            f"--{prefix}network={self.network} has no patches to mask; choose one of "
            f"{', '.join(fit)}.",
        )

    def make(self, data: ImageSet) -> ImageEncoder:
        """The encoder of these images, normalized by the moments of those for training.

        Raises:
          UserError: the images do not divide into patches.
        """
        mean, std = data.moments()
        return ImageEncoder(self.network, data.shape, mean, std, self.bfloat16, self.patch)
