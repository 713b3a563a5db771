"""Encoders of images: a network by name, with the normalization of what it was trained on."""

from dataclasses import dataclass
from typing import Literal

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from missing_bits.augment import color
from missing_bits.data.images import ImageSet
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError, require
from missing_bits.nets import vision

_ROUNDING = 1e-3  # by which floats may lie outside of [0, 1]


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
        channels = self.image_shape[2]
        require(
            len(self.mean) == len(self.std) == channels and min(self.std) > 0,
            f"An encoder of images with {channels} channels needs a mean and a deviation above 0 "
            f"for each; it has {len(self.mean)} and {len(self.std)}.",
        )

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        variables = jax.eval_shape(self.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((2, *self.image_shape), jnp.float32)
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
          images: [B, H, W, C], uint8, or float in [0, 1]; `prepare` makes them of others.
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

    def maps(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Maps [B, H, W, D] of a network that keeps every pixel, float32.

        Args:
          variables: of this encoder.
          images: as for `apply`.
        """
        network = vision.maps_of(self.network, self.bfloat16)
        return network(variables.params, self.normalized(images))

    def normalized(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, C] as the network gets them.

        They are float32, each channel of mean 0 and deviation 1. Integers count as bytes.

        Raises:
          UserError: they are of another shape, or neither integers nor floats.
        """
        self._check_kind(images.shape, images.dtype)
        is_bytes = jnp.issubdtype(images.dtype, jnp.integer)
        images = images.astype(jnp.float32)
        return color.normalize(images / 255 if is_bytes else images, self.mean, self.std)

    def prepare(self, images: ArrayLike) -> jax.Array:
        """Images from anywhere as `apply` takes them; what they hold is checked too.

        Args:
          images: [B, H, W, C], integers from 0 to 255 of any type, or floats in [0, 1]. In a traced
            function only their shape and type are known, and checked.

        Raises:
          UserError: they are none of these.
        """
        if isinstance(images, jax.core.Tracer):
            return images
        try:
            found = np.asarray(images)
        except ValueError as error:
            raise UserError(
                "The images are of different shapes; resize them to one and stack them."
            ) from error
        self._check_kind(found.shape, found.dtype)
        if found.size == 0:
            return jnp.asarray(found)
        low = found.min()
        high = found.max()
        if jnp.issubdtype(found.dtype, jnp.integer):
            require(
                low >= 0 and high <= 255,
                f"The images are integers from {low} to {high}; they must lie between 0 and 255.",
            )
            return jnp.asarray(found.astype(np.uint8))
        require(
            bool(np.isfinite(low) and np.isfinite(high)),
            "The images hold NaN or infinite numbers; give uint8, or finite floats in [0, 1].",
        )
        require(
            low >= -_ROUNDING and high <= 1 + _ROUNDING,
            f"The images are floats from {low:.4g} to {high:.4g}; floats must lie in [0, 1]. "
            "Divide bytes by 255 or give them as uint8; the encoder normalizes by itself.",
        )
        return jnp.asarray(found.astype(np.float32))

    def _check_kind(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Raises `UserError` unless images are of this encoder's shape, integers or floats."""
        height, width, channels = self.image_shape
        advice = "Resize them, or take another encoder."
        if shape == self.image_shape:
            advice = "Give a single one as images[None]."
        elif shape[1:] == (channels, height, width):
            advice = "Move the channels to the end: images.transpose(0, 2, 3, 1)."
        elif channels == 1 and shape[1:] == (height, width):
            advice = "Add the channel: images[..., None]."
        require(
            len(shape) == 4 and shape[1:] == self.image_shape,
            f"The images are of shape {shape}; this encoder takes (images, {height}, {width}, "
            f"{channels}), the last three being height, width, channels. {advice}",
        )
        require(
            jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating),
            f"The images are of type {dtype}; give uint8, or floats in [0, 1].",
        )


@dataclass(frozen=True)
class Encoder:
    """The encoder that a method trains, as options."""

    network: Literal[
        "convnet",
        "resnet18",
        "resnet50",
        "plain_convnet",
        "mlp",
        "full_resolution",
        "vit_nano",
        "vit_micro",
        "vit_tiny",
        "vit_small",
    ] = "convnet"
    """Encoder. vit_nano is for tests; plain_convnet, mlp and full_resolution normalize nothing
    over the batch, and are for autoencoders."""
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

    def check_batch(self, batch_size: int) -> None:
        """Raises `UserError` for a batch of one example under batch normalization.

        That makes the same features of every image, so that nothing but a bias could be learned.
        Statistics are those of all devices together: what counts is the batch of all.
        """
        require(
            batch_size > 1 or not vision.has_batch_norm(self.network),
            f"--batch-size is {batch_size}, but --network={self.network} normalizes over the "
            "batch, which takes at least 2 images; give more, or a vision transformer.",
        )

    def make(self, data: ImageSet) -> ImageEncoder:
        """The encoder of these images, normalized by the moments of those for training.

        Raises:
          UserError: the images do not divide into patches.
        """
        mean, std = data.moments()
        return ImageEncoder(self.network, data.shape, mean, std, self.bfloat16, self.patch)
