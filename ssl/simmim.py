"""SimMIM: an encoder learns by restoring patches behind a token that stands in their place.

Xie et al. 2022. No long run has been measured.

    python run.py --exp=simmim

A random part of an image's patches is hidden: the encoder gets a mask token in place of each, and
all others as they are. With z_i what it makes of the i-th hidden place and y_i the pixels of that
patch, one linear layer predicts the pixels, and the loss is the mean absolute error of hidden
patches (sections 3.2 to 3.4):

    loss = 1 / (M P) sum_i |W z_i + b - y_i|_1

What is handed over is the encoder, without mask token and linear layer. Deviation from the paper:
patches are hidden one by one, not in blocks of 32 pixels.
Shapes: B images in a batch (on one device), H, W, C of an image, L patches, M of them hidden, P
numbers in each, D width of a token, F features.
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
from missing_bits.errors import require_positive
from missing_bits.eval import collapse, masked_patches
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.masked_patches import Restored
from missing_bits.eval.probes import Probes, Probing
from missing_bits.metrics import Metrics
from missing_bits.nets import vision
from missing_bits.options import Flat
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """SimMIM. Periods and budgets count updates."""

    images: Flat[Images] = Images()
    encoder: Flat[Encoder] = Encoder(network="vit_micro")
    probing: Flat[Probing] = Probing()
    updates: int = 600
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    mask_ratio: float = 0.6
    """Share of the patches that are hidden, above 0 and below 1."""
    views: Views = Views(crop_scale=(0.2, 1.0), jitter=0.0, gray=0.0, solarize=(0.0, 0.0))
    """How images are distorted: crops and flips, as published; of the pairs of rates the first."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=1.5e-3, squares=0.95, weight_decay=0.05
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"views": {"crop_scale": (0.6, 1.0), "flip": 0.0}},
    # As the masked autoencoder has it.
    "fashion_mnist": {
        "probe_images": 10_000,
        "updates": 4_000,
        "patch": 7,
        "views": {"crop_scale": (0.6, 1.0)},
    },
    # The recipe of the authors' code with the small network: 800 epochs, 10 of them warm-up, step
    # size 1e-4 times batch / 512; there it falls once, to a tenth, after 700 epochs.
    "imagenet": {
        "network": "vit_small",
        "updates": 500_456,
        "batch_size": 2048,
        "views": {"crop_scale": (0.67, 1.0)},
        "optimizer": {"learning_rate": 4e-4, "warmup": 0.0125, "squares": 0.999, "end": 0.0},
    },
}
TINY = {
    "data": "digits",
    "network": "vit_nano",
    "updates": 12,
    "batch_size": 16,
    "probe_images": 100,
}


class Params(NamedTuple):
    """Parameters of everything that learns."""

    encoder: Any
    mask_token: jax.Array  # [D]
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
    """The encoder and the linear layer, what they are shown and what they are to restore."""

    encoder: ImageEncoder
    decoder: hk.Transformed
    """Maps tokens [B, M, D] of hidden places to predictions [B, M, P]."""
    patches: Patches
    mask_ratio: float

    def init(self, key: jax.Array, start: Variables | None) -> Params:
        """Fresh parameters, but for those of the encoder if it has a start."""
        encoder_key, decoder_key, token_key = jax.random.split(key, 3)
        encoder = start or self.encoder.init(encoder_key)
        width = self.encoder.num_features // 2  # features are two tokens
        mask_token = 0.02 * jax.random.normal(token_key, (width,))
        decoder = self.decoder.init(decoder_key, jnp.zeros((1, 1, width)))
        return Params(encoder.params, mask_token, decoder)

    def masks(self, keys: jax.Array) -> Masks:
        """Which patches of images to hide, for keys [B]."""
        return self.patches.masks(keys, self.mask_ratio)

    def restore(self, params: Params, x: jax.Array, masks: Masks) -> Restored:
        """Hidden patches, predicted from what is visible of images [B, H, W, C]."""
        everywhere = jnp.arange(self.patches.count)[None, None]
        is_hidden = jnp.any(masks.hidden[:, :, None] == everywhere, axis=1)  # [B, L]
        tokens = self.encoder.tokens(
            params.encoder_variables, x, mask=is_hidden, mask_token=params.mask_token
        )  # [B, 1 + L, D]
        hidden = jnp.take_along_axis(tokens[:, 1:], masks.hidden[:, :, None], axis=1)  # [B, M, D]
        return Restored(self.decoder.apply(params.decoder, hidden), vision.summary(tokens))

    def targets(self, patches: jax.Array) -> masking.Normalized:
        """What should be predicted of patches [B, M, P]: they themselves."""
        return masking.unchanged(patches)

    def error(self, predictions: jax.Array, values: jax.Array) -> jax.Array:
        """The mean absolute error of predictions [B, M, P]."""
        chex.assert_equal_shape([predictions, values])
        return jnp.mean(jnp.abs(predictions - values))

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


class SimMIM:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        config.encoder.check_patches()
        require_positive(config, "updates", "batch_size")

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images, the networks, probes of the encoder and the error on test images."""
        data = config.images.load()
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        grid = Patches.cut(data.shape, vision.patch_side(data.shape, config.encoder.patch))
        masking.check(config.mask_ratio, grid.count)
        decoder = hk.transform(lambda tokens: hk.Linear(grid.numbers)(tokens))
        autoencoder = Autoencoder(encoder, hk.without_apply_rng(decoder), grid, config.mask_ratio)
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
        """Writes the encoder, without mask token and linear layer."""
        files.save(path, self.autoencoder.encoder, learned.encoder_variables, facts)
