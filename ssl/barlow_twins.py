"""Barlow Twins: features that agree on two views of an image and do not repeat each other (Zbontar et al. 2021).

    python run.py --exp=barlow_twins  # three minutes on two cores: kNN 77 %, raw pixels 54 % (docs/results.md)

C is the cross-correlation, over the batch, of the embeddings of two distorted views of the same images. The loss
pulls C towards the identity (equation 1):

    loss = sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2

The first sum asks for invariance to the distortions, the second for uncorrelated components. As in the authors' code,
each view passes the network alone, and the loss is multiplied by 196 / D. Deviation from the paper: AdamW by default.
Shapes: B images in a batch (on one device), H, W, C of an image, F features of the encoder, D of an embedding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers
from missing_bits.augment import views
from missing_bits.augment.views import Views
from missing_bits.data.images import Split
from missing_bits.data.load import load
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import encoder_of
from missing_bits.errors import require, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.probes import Probes
from missing_bits.nets import layers
from missing_bits.pictures import features as features_pictures
from missing_bits.pictures import images as images_pictures


@dataclass(frozen=True)
class Config:
    """Barlow Twins. Periods and budgets count updates."""

    data: str = "photos"
    """Images: photos, digits, fashion_mnist, cifar10, imagenet, npz:PATH, folder:PATH."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""
    probe_images: int = 0
    """Training images that the probes learn from, at most, evenly spaced; 0 for all."""
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, each seen in two views, over all devices."""
    network: Literal["convnet", "resnet18", "resnet50", "vit_micro", "vit_tiny", "vit_small"] = (
        "convnet"
    )
    """Encoder."""
    init_from: str = ""
    """Folder of a run whose encoder to start from; empty for a fresh one."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16; parameters and statistics stay float32."""
    projector_sizes: tuple[int, ...] = (512, 512, 512)
    """Widths of the projector's layers, in units; the last is D."""
    off_diagonal: float = 0.0051
    """Weight of the off-diagonal terms: lambda."""
    loss_scale: float = 196.0
    """The loss is multiplied by this / D. Adaptive optimizers hardly notice it."""
    views: Views = Views()
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer()
    """How parameters move."""


LARS = {"name": "lars", "warmup": 0.01, "weight_decay": 1.5e-6}
PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"views": {"crop_scale": (0.6, 1.0), "flip": 0.0, "jitter": 0.0, "solarize": (0.0, 0.0)}},
    "fashion_mnist": {"updates": 3_500, "views": {"crop_scale": (0.2, 1.0)}},
    # solo-learn's recipe (da Costa et al. 2022), 1,000 epochs; it also limits the adapted step size of LARS.
    "cifar10": {"network": "resnet18", "updates": 195_313, "batch_size": 256, "projector_sizes": (2048,) * 3,
                "loss_scale": 204.8, "optimizer": LARS | {"learning_rate": 0.3, "trust": 0.02, "weight_decay": 1e-4}},
    # The paper's (section 2.2) and its code's, 1,000 epochs; step sizes 0.2 and 0.0048 times batch / 256.
    "imagenet": {"network": "resnet50", "updates": 625_571, "batch_size": 2048, "projector_sizes": (8192,) * 3,
                 "views": {"blur": (1.0, 0.1)}, "optimizer": LARS | {"learning_rate": 1.6, "vector_scale": 0.024}},
}  # fmt: skip


class State(NamedTuple):
    """Everything a run knows."""

    params: dict[str, Any]  # of "encoder" and "projector"
    statistics: dict[str, Any]  # moving averages of batch normalization, of the same two
    opt_state: optax.OptState


def correlation(z_a: jax.Array, z_b: jax.Array) -> jax.Array:
    """The cross-correlation [D, D] (equation 2) of two embeddings [B, D] over the batch of all devices, in float32.

    Deviations are biased, over as many images as divide the products: identical views have ones on the diagonal.
    """
    chex.assert_equal_shape([z_a, z_b])

    def standardized(z: jax.Array) -> jax.Array:
        z = z.astype(jnp.float32)
        z = z - collectives.mean(jnp.mean(z, axis=0, keepdims=True))
        variance = collectives.mean(jnp.mean(jnp.square(z), axis=0, keepdims=True))
        return z * jax.lax.rsqrt(variance + 1e-12)  # [B, D]

    products = jnp.einsum(
        "bi,bj->ij", standardized(z_a), standardized(z_b), preferred_element_type=jnp.float32
    )
    return collectives.total(products) / (z_a.shape[0] * collectives.size())


def objective(c: jax.Array, off_diagonal: float) -> tuple[jax.Array, jax.Array]:
    """The two terms of equation 1 for a correlation [D, D]: invariance, and weighted redundancy."""
    diagonal = jnp.diagonal(c)
    redundancy = jnp.sum(jnp.square(c)) - jnp.sum(jnp.square(diagonal))
    return jnp.sum(jnp.square(1 - diagonal)), off_diagonal * redundancy


class BarlowTwins:
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
        self.config, self.budget = config, config.updates
        self.data = load(config.data, config.data_dir, config.image_size)
        self.data_digest = self.data.digest
        self.encoder = ImageEncoder(
            config.network, self.data.shape, *self.data.moments(), config.bfloat16
        )
        self.start = files.load_for(self.encoder, config.init_from) if config.init_from else None
        self.projector = hk.transform_with_state(
            lambda h, train: layers.Projector(config.projector_sizes)(h, train)
        )
        self.optimizer = optimizers.make(config.optimizer, config.updates)
        self.probes = Probes(self.data, self.encoder, config.probe_images)
        self.headline, self.baselines = self.probes.headline, self.probes.baselines

    def source(self, seeds: Any) -> BatchSource:
        """Batches of training images."""
        return BatchSource(self.data.train._replace(labels=None), seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, projector_key = jax.random.split(key)
        encoder = self.start or self.encoder.init(encoder_key)
        projector = self.projector.init(
            projector_key, jnp.zeros((2, self.encoder.num_features)), True
        )
        params, statistics = (
            {"encoder": e, "projector": p} for e, p in zip(encoder, projector, strict=True)
        )
        return State(params, statistics, self.optimizer.init(params))

    def embed(
        self, params: Any, statistics: Any, images: jax.Array, is_training: bool
    ) -> tuple[Any, ...]:
        """Features [B, F] and embeddings [B, D] of images [B, H, W, C] in [0, 1], and the new statistics."""
        features, moved = self.encoder.apply(encoder_of((params, statistics)), images, is_training)
        z, projector = self.projector.apply(
            params["projector"], statistics["projector"], None, features, is_training
        )
        return features, z, {"encoder": moved, "projector": projector}

    def loss(
        self, params: Any, statistics: Any, x_a: jax.Array, x_b: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The loss of two views [B, H, W, C] of the same images; the new statistics and what to log."""
        _, z_a, statistics = self.embed(params, statistics, x_a, True)
        features, z_b, statistics = self.embed(params, statistics, x_b, True)
        c = correlation(z_a, z_b)
        scale = self.config.loss_scale / c.shape[0]
        invariance, redundancy = (scale * term for term in objective(c, self.config.off_diagonal))
        spread = collapse.feature_deviation(features)
        metrics = {
            "train/invariance": invariance,
            "train/redundancy": redundancy,
            "train/feature_deviation": spread,
        }
        return invariance + redundancy, (statistics, metrics)

    def step(
        self, state: State, batch: Split, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Draws two views of every image and makes one update."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        x_a, x_b = views.two_views(keys, batch.images, self.config.views)
        (loss, (statistics, metrics)), grads = jax.value_and_grad(self.loss, has_aux=True)(
            *state[:2], x_a, x_b
        )
        grads = collectives.mean(grads)  # of a loss that is already one over all devices
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        state = State(optax.apply_updates(state.params, updates), statistics, opt_state)
        return state, metrics | {"train/loss": loss, "train/gradient_norm": optax.tree.norm(grads)}

    def learned(self, state: State) -> tuple[Any, Any]:
        """Parameters and moving averages."""
        return state.params, state.statistics

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """Probes of the encoder."""
        return self.probes.scores(encoder_of(learned))

    def hand_over(self, learned: Any, path: Path, facts: Any) -> None:
        """Writes the encoder, without its projector."""
        files.save(path, self.encoder, encoder_of(learned), facts)

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """Pairs of views, their cross-correlation over test images, and what the probes have to show."""
        test = self.data.test.images
        images = jnp.asarray(test[np.random.default_rng(seed).permutation(test.shape[0])[:512]])
        x_a, x_b = views.two_views(
            jax.random.split(jax.random.key(seed), len(images)), images, self.config.views
        )
        z_a, z_b = (
            jax.jit(self.embed, static_argnums=3)(*learned, x, False)[1] for x in (x_a, x_b)
        )
        images_pictures.pairs(x_a[:16], x_b[:16], folder / "views.png")
        features_pictures.correlation(correlation(z_a, z_b), folder / "correlation.png")
        self.probes.pictures(encoder_of(learned), folder)


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    require_positive(config, "updates", "projector_sizes", "off_diagonal", "loss_scale")
    require(
        config.batch_size >= 2,
        f"--batch-size is {config.batch_size}; a correlation needs at least 2 images.",
    )
    require(len(config.projector_sizes) > 0, "--projector-sizes is empty; give at least one width.")
    views.check(config.views)
