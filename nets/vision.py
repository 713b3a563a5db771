"""Encoders of images in Haiku: images [B, H, W, C] to features [B, D]."""

from collections.abc import Callable, Sequence

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from missing_bits.augment import masking
from missing_bits.errors import require
from missing_bits.nets import transformer
from missing_bits.nets.conv import Conv2D
from missing_bits.nets.layers import BatchNorm

_HE = hk.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")  # He et al. 2015
_HE_IN = hk.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal")
_LAST_MAP = 8  # pixels: the longer side of the last map of a PlainConvNet, at most
_SMALL = 64  # pixels: images with a shorter side get the stem for small images
_MOST_PATCHES = 16_384  # 128 x 128: each attends to all others


def _conv_norm(
    x: jax.Array, channels: int, kernel: int, stride: int, is_training: bool, scale: float = 1.0
) -> jax.Array:
    """A convolution and its batch normalization."""
    x = Conv2D(channels, kernel, stride, with_bias=False, w_init=_HE)(x)
    return BatchNorm(scale)(x, is_training)


class ConvNet(hk.Module):
    """A small network for images of about 28 pixels a side on few cores.

    It takes 10 million operations for 28x28. Three stages halve the side and double the width, each
    with one residual 3x3 convolution; a 1x1 convolution makes many features of few channels.
    Features are means over all places, normalized: cosine similarity then compares what differs
    between images, and not the mean of all images that a ReLU leaves.

    Args:
      widths: channels of the stages.
      size: number of features.
      name: of the module.
    """

    def __init__(
        self, widths: Sequence[int] = (24, 48, 96), size: int = 384, name: str | None = None
    ):
        super().__init__(name)
        self._widths = widths
        self._size = size

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Features [B, size] of images [B, H, W, C]."""
        for stage, width in enumerate(self._widths):
            x = jax.nn.relu(_conv_norm(x, width, 3 if stage else 4, 2, is_training))
            y = jax.nn.relu(_conv_norm(x, width, 3, 1, is_training))
            x = jax.nn.relu(x + y)
        x = jax.nn.relu(_conv_norm(x, self._size, 1, 1, is_training))
        return BatchNorm(affine=False)(jnp.mean(x, axis=(1, 2)), is_training)


class ResNet(hk.Module):
    """Residual network (He et al. 2016), version 1, a bottleneck's stride in its 3x3 convolution.

    The last normalization of a block starts at zero, so that the block starts as the identity
    (Goyal et al. 2017).

    Args:
      blocks: number of blocks of each stage.
      bottleneck: whether blocks are 1x1, 3x3, 1x1 with four times the width at their ends, or two
        3x3.
      name: of the module.
    """

    def __init__(self, blocks: Sequence[int], bottleneck: bool, name: str | None = None):
        super().__init__(name)
        self._blocks = blocks
        self._bottleneck = bottleneck

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Features [B, 512 or 2048] of images [B, H, W, C].

        The stem is the published one, which quarters the side, or for small images one 3x3
        convolution.
        """
        if min(x.shape[1:3]) < _SMALL:
            x = jax.nn.relu(_conv_norm(x, 64, 3, 1, is_training))
        else:
            x = jax.nn.relu(_conv_norm(x, 64, 7, 2, is_training))
            x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for stage, blocks in enumerate(self._blocks):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                x = self._block(x, 64 * 2**stage, stride, is_training)
        return jnp.mean(x, axis=(1, 2))

    @hk.transparent
    def _block(self, x: jax.Array, width: int, stride: int, is_training: bool) -> jax.Array:
        if self._bottleneck:
            y = jax.nn.relu(_conv_norm(x, width, 1, 1, is_training))
            y = jax.nn.relu(_conv_norm(y, width, 3, stride, is_training))
            y = _conv_norm(y, 4 * width, 1, 1, is_training, scale=0.0)
        else:
            y = jax.nn.relu(_conv_norm(x, width, 3, stride, is_training))
            y = _conv_norm(y, width, 3, 1, is_training, scale=0.0)
        if y.shape != x.shape:
            x = _conv_norm(x, y.shape[3], 1, stride, is_training)
        return jax.nn.relu(x + y)


class PlainConvNet(hk.Module):
    """Convolutions that halve the sides, then a layer on all that is left.

    Nothing is normalized over the batch, nor averaged over places: features can tell where things
    are, which a decoder needs.

    Args:
      width: channels of the first convolution; each of the others has twice as many.
      size: number of features.
      name: of the module.
    """

    def __init__(self, width: int = 32, size: int = 256, name: str | None = None):
        super().__init__(name)
        self._width = width
        self._size = size

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Features [B, size] of images [B, H, W, C]."""
        width = self._width
        x = jax.nn.silu(Conv2D(width, 4, 2, w_init=_HE_IN)(x))
        while max(x.shape[1:3]) > _LAST_MAP:
            width *= 2
            x = jax.nn.silu(Conv2D(width, 4, 2, w_init=_HE_IN)(x))
        return jax.nn.silu(hk.Linear(self._size)(hk.Flatten()(x)))


class MLP(hk.Module):
    """Two layers on all pixels.

    Args:
      sizes: units of the layers, the last of which are the features.
      name: of the module.
    """

    def __init__(self, sizes: Sequence[int] = (512, 256), name: str | None = None):
        super().__init__(name)
        self._sizes = sizes

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Features [B, sizes[-1]] of images [B, H, W, C]."""
        x = hk.Flatten()(x)
        for size in self._sizes:
            x = jax.nn.silu(hk.Linear(size)(x))
        return x


class FullResolution(hk.Module):
    """Convolutions that keep every pixel, as for denoising (DnCNN, Zhang et al. 2017).

    Unlike there, nothing is normalized over the batch, and channels and layers are fewer.

    Args:
      width: channels.
      layers: 3x3 convolutions.
      name: of the module.
    """

    def __init__(self, width: int = 32, layers: int = 6, name: str | None = None):
        super().__init__(name)
        self._width = width
        self._layers = layers

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Features [B, width] of images [B, H, W, C]: the means of maps over places."""
        return jnp.mean(self.maps(x), axis=(1, 2))

    @hk.name_like("__call__")
    def maps(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, width] of images [B, H, W, C]."""
        for _ in range(self._layers):
            x = jax.nn.silu(Conv2D(self._width, 3, w_init=_HE_IN)(x))
        return x


class VisionTransformer(hk.Module):
    """Vision transformer (Dosovitskiy et al. 2021): a class token and patches with fixed positions.

    Args:
      width: of a token.
      heads: of attention.
      layers: number of blocks.
      patch: side of a patch, in pixels; 0 for what suits the images.
      name: of the module.
    """

    def __init__(
        self, width: int, heads: int, layers: int = 12, patch: int = 0, name: str | None = None
    ):
        super().__init__(name)
        self._width = width
        self._heads = heads
        self._layers = layers
        self._patch = patch

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """Features [B, 2 width] of images [B, H, W, C], as `summary` makes them of tokens."""
        return summary(self.tokens(x))

    @hk.name_like("__call__")
    def tokens(
        self,
        x: jax.Array,
        kept: jax.Array | None = None,
        mask: jax.Array | None = None,
        mask_token: jax.Array | None = None,
    ) -> jax.Array:
        """The class token and those of L patches, [B, 1 + L, width].

        Args:
          x: images [B, H, W, C].
          kept: int [B, K], the patches that are seen: tokens [B, 1 + K, width] are of these, in
            this order.
          mask: bool [B, L], where `mask_token` [width] stands in place of a patch.
          mask_token: see `mask`.
        """
        side = patch_side(x.shape[1:], self._patch)
        patches = masking.patchify(x, side)  # [B, L, side side C]
        rows = x.shape[1] // side
        columns = x.shape[2] // side
        grid = transformer.grid_positions(rows, columns, self._width)
        positions = jnp.asarray(grid, x.dtype)[None]  # [1, L, width]
        if kept is not None:
            patches = jnp.take_along_axis(patches, kept[:, :, None], axis=1)
            positions = positions[0][kept]  # [B, K, width]
        x = hk.Linear(self._width, w_init=transformer.GLOROT, name="embed")(patches)
        if mask is not None:
            x = jnp.where(mask[:, :, None], mask_token.astype(x.dtype)[None, None], x)
        class_token = hk.get_parameter(
            "class_token", (self._width,), init=hk.initializers.TruncatedNormal(0.02)
        )
        first = jnp.broadcast_to(class_token.astype(x.dtype), (x.shape[0], 1, self._width))
        x = jnp.concatenate([first, x + positions], axis=1)
        return transformer.Transformer(self._layers, self._heads)(x)


def summary(tokens: jax.Array) -> jax.Array:
    """Features [B, 2 D] of tokens [B, 1 + L, D]: the class token beside the others' mean."""
    return jnp.concatenate([tokens[:, 0], jnp.mean(tokens[:, 1:], axis=1)], axis=1)


Network = ConvNet | ResNet | PlainConvNet | MLP | FullResolution | VisionTransformer
_NETWORKS: dict[str, Callable[[int], Network]] = {  # for the side of a patch
    "convnet": lambda _: ConvNet(),
    "resnet18": lambda _: ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda _: ResNet((3, 4, 6, 3), bottleneck=True),
    "plain_convnet": lambda _: PlainConvNet(),
    "mlp": lambda _: MLP(),
    "full_resolution": lambda _: FullResolution(),
    "vit_nano": lambda patch: VisionTransformer(32, 2, 1, patch),  # for tests
    "vit_micro": lambda patch: VisionTransformer(128, 4, 6, patch),
    "vit_tiny": lambda patch: VisionTransformer(192, 3, 12, patch),
    "vit_small": lambda patch: VisionTransformer(384, 6, 12, patch),
}


NAMES = tuple(_NETWORKS)


def has_patches(name: str) -> bool:
    """Whether the network `name` cuts images into patches, as masked methods need."""
    return name.startswith("vit")


def has_batch_norm(name: str) -> bool:
    """Whether the network `name` normalizes over the batch, which leaves nothing of one example."""
    return name.startswith(("convnet", "resnet"))


def has_maps(name: str) -> bool:
    """Whether the network `name` keeps every pixel, as `maps_of` needs."""
    return name == "full_resolution"


def check(name: str, image_shape: tuple[int, int, int], patch: int = 0) -> None:
    """Raises `UserError` for images (H, W, C) that a network cannot take.

    They must have pixels, and divide into the patches of a network that has any.

    Args:
      name: of the network.
      image_shape: height, width, channels.
      patch: side of a patch, in pixels; 0 for what suits the images.
    """
    require(
        patch >= 0, f"--patch is {patch}; give a number of pixels, or 0 for what suits the images."
    )
    require(name in NAMES, f"--network={name} is unknown; it is one of {', '.join(NAMES)}.")
    require(
        min(image_shape) >= 1,
        f"Images of height, width and channels {image_shape} hold no pixels; give larger ones.",
    )
    side = patch_side(image_shape, patch)
    height, width, _ = image_shape
    require(
        not has_patches(name) or (height % side == 0 and width % side == 0),
        f"--network={name} cuts images into patches of {side} x {side} pixels, but they are "
        f"{height} x {width}: choose another network, or images whose sides are multiples.",
    )
    count = (height // side) * (width // side)
    require(
        not has_patches(name) or count <= _MOST_PATCHES,
        f"--network={name} cuts images of {height} x {width} pixels into {count:,} patches; "
        f"attention takes at most {_MOST_PATCHES:,}. Choose a larger --patch or smaller images.",
    )


def patch_side(image_shape: tuple[int, int, int], patch: int = 0) -> int:
    """The side of a patch, in pixels: `patch`, or if that is 0 what suits images (H, W, C)."""
    return patch or (4 if min(image_shape[:2]) < _SMALL else 16)


def make(name: str, bfloat16: bool = False, patch: int = 0) -> hk.TransformedWithState:
    """An encoder by name: a Haiku transform of (images, is_training) to float32 features.

    Args:
      name: one of `NAMES`.
      bfloat16: compute in bfloat16; parameters, statistics and features stay float32.
      patch: side of a vision transformer's patches, in pixels; 0 for what suits the images.
    """

    def forward(images: jax.Array, is_training: bool) -> jax.Array:
        return _NETWORKS[name](patch)(images, is_training)

    network = hk.transform_with_state(forward)
    policy = _policy(bfloat16)

    def apply(
        params: hk.Params,
        state: hk.State,
        key: jax.Array | None,
        images: jax.Array,
        is_training: bool,
    ) -> tuple[jax.Array, hk.State]:
        params, images = policy.cast_to_compute((params, images))
        features, state = network.apply(params, state, key, images, is_training)
        return policy.cast_to_output(features), state

    return hk.TransformedWithState(network.init, apply)


def tokens_of(name: str, bfloat16: bool = False, patch: int = 0) -> Callable[..., jax.Array]:
    """A function (params, images, kept, mask, mask_token) to float32 tokens.

    They are those of a vision transformer by name, which shares its parameters with `make`;
    `VisionTransformer.tokens` tells what the arguments are.
    """

    def forward(*inputs: jax.Array | None) -> jax.Array:
        return _NETWORKS[name](patch).tokens(*inputs)

    network = hk.without_apply_rng(hk.transform(forward))
    policy = _policy(bfloat16)

    def apply(params: hk.Params, *inputs: jax.Array | None) -> jax.Array:
        return policy.cast_to_output(network.apply(*policy.cast_to_compute((params, *inputs))))

    return apply


def maps_of(name: str, bfloat16: bool = False) -> Callable[[hk.Params, jax.Array], jax.Array]:
    """A function (params, images) to float32 maps [B, H, W, D] of a network that keeps every pixel.

    It shares its parameters with `make`.
    """
    network = hk.without_apply_rng(hk.transform(lambda images: _NETWORKS[name](0).maps(images)))
    policy = _policy(bfloat16)

    def apply(params: hk.Params, images: jax.Array) -> jax.Array:
        return policy.cast_to_output(network.apply(*policy.cast_to_compute((params, images))))

    return apply


def _policy(bfloat16: bool) -> jmp.Policy:
    compute = "bfloat16" if bfloat16 else "float32"
    return jmp.get_policy(f"params=float32,compute={compute},output=float32")
