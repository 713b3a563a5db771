"""Masked autoencoder: an encoder learns by restoring the patches that it was not shown.

He et al. 2022. Eight minutes on two cores: linear probe on photos 89 %, random encoder 87 %, raw
pixels 62 % (docs/results/).

    python run.py --exp=mae

Of the patches of an image, a random three quarters are hidden. The encoder sees the visible ones
alone. A light decoder gets their tokens, and a mask token at each hidden place, and predicts what
is hidden there. With y_i the i-th hidden patch, normalized by its own mean and deviation, and p_i
what is predicted of it, the loss is the mean squared error of hidden patches (section 3):

    loss = 1 / (M P) sum_i |p_i - y_i|^2

What is handed over is the encoder, without its decoder.
Shapes: B images in a batch (on one device), H, W, C of an image, L patches, K of them visible and M
hidden, P numbers in each, D width of a token, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from missing_bits import collectives, optimizers
from missing_bits.augment import masking, views
from missing_bits.augment.patches import Masks, Patches
from missing_bits.augment.views import Views
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import Images
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import Encoder, ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval import collapse, masked_patches
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.masked_patches import Restored
from missing_bits.eval.probes import Probes, Probing
from missing_bits.metrics import Metrics
from missing_bits.nets import vision
from missing_bits.nets.decoder import PatchDecoder
from missing_bits.options import Flat
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Masked autoencoder. Periods and budgets count updates."""

    images: Flat[Images] = Images()
    encoder: Flat[Encoder] = Encoder(network="vit_micro")
    probing: Flat[Probing] = Probing()
    updates: int = 600
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    mask_ratio: float = 0.75
    """Share of the patches that are hidden, above 0 and below 1."""
    decoder_width: int = 64
    """Width of the decoder's tokens, a multiple of 4 and of its heads."""
    decoder_layers: int = 2
    """Blocks of the decoder."""
    decoder_heads: int = 4
    """Heads of attention in the decoder."""
    normalize_targets: bool = True
    """Predict patches that are normalized each by its own mean and deviation, not pixels."""
    views: Views = Views(crop_scale=(0.2, 1.0), jitter=0.0, gray=0.0, solarize=(0.0, 0.0))
    """How images are distorted: crops and flips, as published; of the pairs of rates the first."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=1.5e-3, squares=0.95, weight_decay=0.05
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"views": {"crop_scale": (0.6, 1.0), "flip": 0.0}},
    # The best linear probe of a dozen settings (docs/results/).
    "fashion_mnist": {
        "probe_images": 10_000,
        "updates": 4_000,
        "patch": 7,
        "mask_ratio": 0.5,
        "views": {"crop_scale": (0.6, 1.0)},
    },
    # The paper's recipe with the small network: 800 epochs, step size 1.5e-4 times batch / 256.
    "imagenet": {
        "network": "vit_small",
        "updates": 250_228,
        "batch_size": 4096,
        "decoder_width": 512,
        "decoder_layers": 8,
        "decoder_heads": 16,
        "optimizer": {"learning_rate": 2.4e-3, "end": 0.0},
    },
}
TINY = {
    "data": "digits",
    "network": "vit_nano",
    "updates": 12,
    "batch_size": 16,
    "decoder_width": 16,
    "decoder_layers": 1,
    "probe_images": 100,
}


class Params(NamedTuple):
    """Parameters of both networks."""

    encoder: Any
    decoder: Any

    @property
    def encoder_variables(self) -> Variables:
        """Those of the encoder as it is handed over."""
        return Variables(self.encoder, {})


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    opt_state: optax.OptState


@dataclass(frozen=True)
class Autoencoder:
    """The networks, what they are shown and what they are to restore."""

    encoder: ImageEncoder
    decoder: hk.Transformed
    """Maps (tokens [B, 1 + K, D], kept [B, K], hidden [B, M]) to predictions [B, M, P]."""
    patches: Patches
    mask_ratio: float
    normalize_targets: bool

    def init(self, key: jax.Array, start: Variables | None) -> Params:
        """Fresh parameters, but for those of the encoder if it has a start."""
        encoder_key, decoder_key = jax.random.split(key)
        encoder = start or self.encoder.init(encoder_key)
        image = jnp.zeros((1, *self.encoder.image_shape))
        masks = self.masks(encoder_key[None])  # like the image, for its shape alone
        tokens = self.encoder.tokens(encoder, image, kept=masks.kept)
        return Params(encoder.params, self.decoder.init(decoder_key, tokens, *masks))

    def masks(self, keys: jax.Array) -> Masks:
        """Which patches of images to hide, for keys [B]."""
        return self.patches.masks(keys, self.mask_ratio)

    def restore(self, params: Params, x: jax.Array, masks: Masks) -> Restored:
        """Hidden patches, predicted from what is visible of images [B, H, W, C]."""
        tokens = self.encoder.tokens(params.encoder_variables, x, kept=masks.kept)  # [B, 1 + K, D]
        predictions = self.decoder.apply(params.decoder, tokens, masks.kept, masks.hidden)
        return Restored(predictions, vision.summary(tokens))

    def targets(self, patches: jax.Array) -> masking.Normalized:
        """What should be predicted of patches [B, M, P]; `values * std + mean` are pixels again."""
        if self.normalize_targets:
            return masking.normalize(patches)
        return masking.unchanged(patches)

    def error(self, predictions: jax.Array, values: jax.Array) -> jax.Array:
        """The mean squared error of predictions [B, M, P]."""
        chex.assert_equal_shape([predictions, values])
        return jnp.mean(jnp.square(predictions - values))

    def loss(self, params: Params, x: jax.Array, masks: Masks) -> tuple[jax.Array, jax.Array]:
        """The error of hidden patches of images [B, H, W, C], and their features [B, F]."""
        restored = self.restore(params, x, masks)
        targets = self.targets(self.patches.at(x, masks.hidden))
        return self.error(restored.predictions, targets.values), restored.features


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet
    autoencoder: Autoencoder
    start: Variables | None
    evaluation: Evaluation  # of `Params`


class MAE:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        config.encoder.check_patches()
        require_positive(config, "updates", "batch_size")
        require_positive(config, "decoder_width", "decoder_layers", "decoder_heads")
        width = config.decoder_width
        heads = config.decoder_heads
        require(
            width % heads == 0 and width % 4 == 0,
            f"--decoder-width is {width}; give a multiple of 4 and of {heads}, the heads.",
        )

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images, the networks, probes of the encoder and the error on test images."""
        data = config.images.load()
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        grid = Patches.cut(data.shape, vision.patch_side(data.shape, config.encoder.patch))
        masking.check(config.mask_ratio, grid.count)
        decoder = hk.transform(
            lambda *seen: PatchDecoder(
                (grid.rows, grid.columns),
                grid.numbers,
                config.decoder_width,
                config.decoder_layers,
                config.decoder_heads,
            )(*seen)
        )
        autoencoder = Autoencoder(
            encoder,
            hk.without_apply_rng(decoder),
            grid,
            config.mask_ratio,
            config.normalize_targets,
        )
        probes = Probes(data, encoder, config.probing.probe_images)
        evaluation = probes.evaluation().of(lambda params: params.encoder_variables)
        evaluation = evaluation.join(masked_patches.evaluation(data, autoencoder))
        if probes.labeled:
            evaluation = evaluation.headed("eval/linear_accuracy")
        return Resources(data, autoencoder, start, evaluation)

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates, shown=("eval/masked_error", "train/loss"))
        self.evaluation = resources.evaluation
        self.data_digest = resources.data.digest
        self.autoencoder = resources.autoencoder
        self.view = config.views.first
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of training images."""
        images = self.resources.data.train._replace(labels=None)
        return BatchSource(images, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        params = self.autoencoder.init(key, self.resources.start)
        return State(params, self.optimizer.init(params))

    def step(self, state: State, batch: Split, key: jax.Array) -> tuple[State, Metrics]:
        """Draws a view and a mask of every image and makes one update."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        keys = jax.vmap(jax.random.split)(keys)  # [B, 2]
        x = views.view(keys[:, 0], batch.images, self.view)
        masks = self.autoencoder.masks(keys[:, 1])
        # Every device hides as many patches: the mean of their losses is the loss of all.
        descent = optimizers.descend(
            self.autoencoder.loss, self.optimizer, state.params, state.opt_state, x, masks
        )
        metrics = {
            "train/loss": descent.loss,
            "train/gradient_norm": descent.gradient_norm,
            "train/feature_deviation": collapse.feature_deviation(descent.aux),
        }
        return State(descent.params, descent.opt_state), metrics

    def learned(self, state: State) -> Params:
        """The parameters."""
        return state.params

    def hand_over(self, learned: Params, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder, without its decoder."""
        files.save(path, self.autoencoder.encoder, learned.encoder_variables, facts)
