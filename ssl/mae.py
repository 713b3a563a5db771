"""Masked image modeling: an encoder learns by restoring the patches of an image that it was not shown.

    python run.py --exp=masked_image  # linear probe on photos 89.4 % (raw pixels 62.3, random encoder 87.1), 8 minutes

Two methods share this file. `mae` (He et al. 2022) encodes the visible patches alone; a light decoder gets their tokens
and a mask token at each hidden place, and predicts each hidden patch, normalized by its own mean and deviation, under
the squared error. `simmim` (Xie et al. 2022) shows the encoder a mask token in place of each hidden patch and predicts
pixels from its tokens by one linear layer, under the absolute error. Either way, only hidden patches enter the loss.
Deviation of simmim: patches are hidden one by one, not in blocks of 32 pixels.
Shapes: B images in a batch (on one device), H, W, C of an image, L patches, K visible and M hidden, P numbers in each,
D width of a token.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers
from missing_bits.augment import masking, views
from missing_bits.augment.views import Views
from missing_bits.data.images import Split
from missing_bits.data.load import load
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.probes import Probes
from missing_bits.nets import vision
from missing_bits.nets.decoder import PatchDecoder
from missing_bits.pictures import images as images_pictures


@dataclass(frozen=True)
class Config:
    """Masked image modeling. Periods and budgets count updates."""

    data: str = "photos"
    """Images: photos, digits, fashion_mnist, cifar10, imagenet, npz:PATH, folder:PATH."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""
    probe_images: int = 0
    """Training images that the probes learn from, at most, evenly spaced; 0 for all."""
    updates: int = 600
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    network: Literal["vit_micro", "vit_tiny", "vit_small"] = "vit_micro"
    """Encoder."""
    patch: int = 0
    """Side of a patch, in pixels; 0 for 4, or 16 where images have at least 64."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16; parameters stay float32."""
    method: Literal["mae", "simmim"] = "mae"
    """Whether hidden patches are left out of the encoder, or replaced by a mask token."""
    mask_ratio: float = 0.75
    """Share of the patches that are hidden, above 0 and below 1. Published: 0.75 for mae, 0.6 for simmim."""
    decoder_width: int = 64
    """mae: width of the decoder's tokens, a multiple of 4 and of its heads."""
    decoder_layers: int = 2
    """mae: blocks of the decoder."""
    decoder_heads: int = 4
    """mae: heads of attention in the decoder."""
    normalize_targets: bool = True
    """mae: predict patches that are normalized each by its own mean and deviation, not pixels."""
    views: Views = Views(crop_scale=(0.2, 1.0), jitter=0.0, gray=0.0, solarize=(0.0, 0.0))
    """How images are distorted: crops and flips, as published."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        squares=0.95, weight_decay=0.05, learning_rate=1.5e-3
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"views": {"crop_scale": (0.6, 1.0), "flip": 0.0}},
    # The best linear probe of a dozen settings; see docs/results.md.
    "fashion_mnist": {"probe_images": 10_000, "updates": 4_000, "patch": 7, "mask_ratio": 0.5,
                      "views": {"crop_scale": (0.6, 1.0)}},
    # The papers' recipe for ImageNet, 800 epochs, step size 1.5e-4 times batch / 256, with the small network.
    "imagenet": {"network": "vit_small", "updates": 250_228, "batch_size": 4096, "decoder_width": 512,
                 "decoder_layers": 8, "decoder_heads": 16, "optimizer": {"learning_rate": 2.4e-3, "end": 0.0}},
}  # fmt: skip


class State(NamedTuple):
    """Everything a run knows."""

    params: dict[str, Any]  # of "encoder" and "decoder"; for simmim also the "mask_token" [D]
    opt_state: optax.OptState


class MaskedImage:
    """The method, as functions on `State`."""

    unit, unit_per_update, evaluations, small, split_over_devices = (
        "updates",
        1,
        4,
        False,
        ("batch_size",),
    )

    def __init__(self, config: Config) -> None:
        check(config)
        self.config, self.budget, self.is_mae = config, config.updates, config.method == "mae"
        self.data = load(config.data, config.data_dir, config.image_size)
        self.data_digest, (height, width, channels) = self.data.digest, self.data.shape
        moments, computes = self.data.moments(), (config.bfloat16, config.patch)
        self.encoder = ImageEncoder(config.network, self.data.shape, *moments, *computes)
        self.side = vision.patch_side(self.data.shape, config.patch)
        self.grid, numbers = (height // self.side, width // self.side), self.side**2 * channels
        self.num_patches = self.grid[0] * self.grid[1]
        masking.check(config.mask_ratio, self.num_patches)
        sizes = (
            self.grid,
            numbers,
            config.decoder_width,
            config.decoder_layers,
            config.decoder_heads,
        )
        decode = (
            (lambda *seen: PatchDecoder(*sizes)(*seen))
            if self.is_mae
            else lambda x: hk.Linear(numbers)(x)
        )
        self.decoder = hk.without_apply_rng(hk.transform(decode))
        self.optimizer = optimizers.make(config.optimizer, config.updates)
        self.probes = Probes(self.data, self.encoder, config.probe_images)
        self.headline = "eval/linear_accuracy" if self.probes.labeled else self.probes.headline

    def source(self, seeds: Any) -> BatchSource:
        """Batches of training images."""
        return BatchSource(self.data.train._replace(labels=None), seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, decoder_key, token_key = jax.random.split(key, 3)
        params = {"encoder": self.encoder.init(encoder_key).params}
        if not self.is_mae:
            params["mask_token"] = 0.02 * jax.random.normal(
                token_key, (self.encoder.num_features // 2,)
            )
        images, masks = (
            jnp.zeros((1, *self.data.shape)),
            self.masks(token_key[None]),
        )  # for their shapes alone
        params["decoder"] = self.decoder.init(decoder_key, *self.encode(params, images, *masks)[0])
        return State(params, self.optimizer.init(params))

    def masks(self, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which patches are visible [B, K] and which hidden [B, M], for keys [B]."""
        kept = masking.num_kept(self.num_patches, self.config.mask_ratio)
        return jax.vmap(lambda key: masking.partition(key, self.num_patches, kept))(keys)

    def encode(
        self, params: Any, x: jax.Array, kept: jax.Array, hidden: jax.Array
    ) -> tuple[tuple, jax.Array]:
        """What the decoder gets of images [B, H, W, C], and their features."""
        encoder = Variables(params["encoder"], {})
        if self.is_mae:
            tokens = self.encoder.tokens(encoder, x, kept=kept)  # [B, 1 + K, D]
            return (tokens, kept, hidden), vision.summary(tokens)
        mask = jnp.any(
            hidden[:, :, None] == jnp.arange(self.num_patches)[None, None], axis=1
        )  # [B, L]
        tokens = self.encoder.tokens(
            encoder, x, mask=mask, mask_token=params["mask_token"]
        )  # [B, 1 + L, D]
        return (jnp.take_along_axis(tokens[:, 1:], hidden[:, :, None], axis=1),), vision.summary(
            tokens
        )

    def targets(self, x: jax.Array, hidden: jax.Array) -> masking.Normalized:
        """What the hidden patches [B, M, P] of images should be; `values * std + mean` are pixels in [0, 1]."""
        patches = masking.patchify(x, self.side)
        patches = jnp.take_along_axis(patches, hidden[:, :, None], axis=1)
        if self.is_mae and self.config.normalize_targets:
            return masking.normalize(patches)
        return masking.Normalized(
            patches, jnp.zeros_like(patches[..., :1]), jnp.ones_like(patches[..., :1])
        )

    def loss(
        self, params: Any, x: jax.Array, kept: jax.Array, hidden: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The mean error over hidden patches; the predictions [B, M, P] and features of images [B, H, W, C]."""
        seen, features = self.encode(params, x, kept, hidden)
        predictions = self.decoder.apply(params["decoder"], *seen)
        error = predictions - self.targets(x, hidden).values
        return jnp.mean(jnp.square(error) if self.is_mae else jnp.abs(error)), (
            predictions,
            features,
        )

    def step(
        self, state: State, batch: Split, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Draws a view and a mask of every image and makes one update."""
        keys = jax.vmap(jax.random.split)(
            collectives.shard(jax.random.split(key, self.config.batch_size))
        )  # [B, 2]
        x = views.view(keys[:, 0], batch.images, self.config.views, 0)
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (_, features)), grads = gradient(state.params, x, *self.masks(keys[:, 1]))
        loss, grads = collectives.mean((loss, grads))  # every device hides as many patches
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        metrics = {"train/loss": loss, "train/gradient_norm": optax.tree.norm(grads)}
        metrics["train/feature_deviation"] = collapse.feature_deviation(features)
        return State(optax.apply_updates(state.params, updates), opt_state), metrics

    def learned(self, state: State) -> Any:
        """The parameters."""
        return state.params

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """Probes of the encoder, and the error on some test images under the same masks each time."""
        x = self._some(self.data.test, 500)
        error, _ = jax.jit(self.loss)(
            learned, x, *self.masks(jax.random.split(jax.random.key(0), len(x)))
        )
        return {
            **self.probes.scores(Variables(learned["encoder"], {})),
            "eval/masked_error": float(error),
        }

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """Probes of simpler encoders, and the error of guessing, at each place, the mean of training patches."""
        train, test = self._some(self.data.train, 2_000), self._some(self.data.test, 500)
        everywhere = [
            jnp.tile(jnp.arange(self.num_patches)[None], (len(x), 1)) for x in (train, test)
        ]
        mean = jnp.mean(self.targets(train, everywhere[0]).values, axis=0, keepdims=True)
        error = self.targets(test, everywhere[1]).values - mean
        guess = jnp.mean(jnp.square(error) if self.is_mae else jnp.abs(error))
        return {**self.probes.baselines(key), "baseline/mean_patch_error": float(guess)}

    def hand_over(self, learned: Any, path: Path, facts: Any) -> None:
        """Writes the encoder, without its decoder."""
        files.save(path, self.encoder, Variables(learned["encoder"], {}), facts)

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """Test images, what the encoder sees of them, what it makes of that; and what the probes have to show.

        A prediction of normalized patches gets the true mean and deviation of each patch back, as published.
        """
        x = self._some(self.data.test, 12)
        kept, hidden = self.masks(jax.random.split(jax.random.key(seed), len(x)))
        _, (predictions, _) = jax.jit(self.loss)(learned, x, kept, hidden)
        _, mean, std = self.targets(x, hidden)

        def filled(patches: jax.Array) -> jax.Array:
            """The images with other patches [12, M, P] in the hidden places."""
            all_patches = (
                masking.patchify(x, self.side).at[jnp.arange(len(x))[:, None], hidden].set(patches)
            )
            return masking.unpatchify(all_patches, *self.grid, x.shape[3])

        masked, restored = filled(jnp.full_like(predictions, 0.5)), filled(predictions * std + mean)
        images_pictures.reconstructions(x, masked, restored, folder / "reconstructions.png")
        self.probes.pictures(Variables(learned["encoder"], {}), folder)

    def _some(self, split: Split, most: int) -> jax.Array:
        """At most so many images of a split, evenly spaced, float [n, H, W, C] in [0, 1]."""
        count = split.images.shape[0]
        return (
            jnp.asarray(split.images[np.linspace(0, count - 1, min(count, most)).astype(int)]) / 255
        )


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    require_positive(
        config, "updates", "batch_size", "decoder_width", "decoder_layers", "decoder_heads"
    )
    require(
        config.decoder_width % config.decoder_heads == 0 and config.decoder_width % 4 == 0,
        f"--decoder-width is {config.decoder_width}; give a multiple of 4 and of {config.decoder_heads}, the heads.",
    )
    views.check(config.views)
