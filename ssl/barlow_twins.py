"""Barlow Twins: features that agree on two views of an image and do not repeat each other.

Zbontar et al. 2021. Three minutes on two cores: kNN 77 %, raw pixels 54 % (docs/results/).

    python run.py --exp=barlow_twins

C is the cross-correlation, over the batch, of the embeddings of two distorted views of the same
images. The loss pulls C towards the identity (equation 1):

    loss = sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2

The first sum asks for invariance to the distortions, the second for uncorrelated components. As in
the authors' code, each view passes the network alone, and the loss is multiplied by 196 / D.
Deviation from the paper: AdamW by default.
Shapes: B images in a batch (on one device), H, W, C of an image, F features of the encoder, D of an
embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers
from missing_bits.augment import views
from missing_bits.augment.views import Views
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import Images
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import Encoder, ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.probes import Probes, Probing, at_once
from missing_bits.metrics import Metrics
from missing_bits.nets import layers
from missing_bits.options import Flat, row
from missing_bits.pictures import features as pictures_of_features
from missing_bits.pictures import images as pictures_of_images
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Barlow Twins. Periods and budgets count updates."""

    images: Flat[Images] = Images()
    encoder: Flat[Encoder] = Encoder()
    probing: Flat[Probing] = Probing()
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, each seen in two views, over all devices."""
    projector_sizes: tuple[int, ...] = (512, 512, 512)
    """Widths of the projector's layers, in units; the last is D."""
    off_diagonal: float = row(0.0051)
    """Weight of the off-diagonal terms: lambda."""
    loss_scale: float = row(196.0)
    """The loss is multiplied by this / D. Adaptive optimizers hardly notice it."""
    views: Views = Views()
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer()
    """How parameters move."""


LARS = {"name": "lars", "warmup": 0.01, "weight_decay": 1.5e-6}
PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "views": {"crop_scale": (0.6, 1.0), "flip": 0.0, "jitter": 0.0, "solarize": (0.0, 0.0)}
    },
    "fashion_mnist": {"updates": 3_500, "views": {"crop_scale": (0.2, 1.0)}},
    # solo-learn's recipe (da Costa et al. 2022), 1,000 epochs; it also limits the adapted step size
    # of LARS.
    "cifar10": {
        "network": "resnet18",
        "updates": 195_313,
        "batch_size": 256,
        "projector_sizes": (2048,) * 3,
        "loss_scale": 204.8,
        "optimizer": LARS | {"learning_rate": 0.3, "trust": 0.02, "weight_decay": 1e-4},
    },
    # The paper's (section 2.2) and its code's, 1,000 epochs; step sizes 0.2 and 0.0048 times
    # batch / 256.
    "imagenet": {
        "network": "resnet50",
        "updates": 625_571,
        "batch_size": 2048,
        "projector_sizes": (8192,) * 3,
        "views": {"blur": (1.0, 0.1)},
        "optimizer": LARS | {"learning_rate": 1.6, "vector_scale": 0.024},
    },
}
TINY = {
    "data": "digits",
    "network": "vit_nano",
    "updates": 12,
    "batch_size": 16,
    "projector_sizes": (32, 32),
    "probe_images": 100,
}


class Parts(NamedTuple):
    """Parameters, or moving averages of batch normalization, of both networks."""

    encoder: Any
    projector: Any


class Learned(NamedTuple):
    """What a run has learned."""

    params: Parts
    statistics: Parts

    @property
    def encoder(self) -> Variables:
        """The encoder's variables."""
        return Variables(self.params.encoder, self.statistics.encoder)


class State(NamedTuple):
    """Everything a run knows."""

    params: Parts
    statistics: Parts
    opt_state: optax.OptState


class Embedded(NamedTuple):
    """What the networks make of a view."""

    features: jax.Array  # [B, F]
    z: jax.Array  # [B, D]
    statistics: Parts


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet
    encoder: ImageEncoder
    start: Variables | None
    evaluation: Evaluation  # of an encoder's variables


def correlation(z_a: jax.Array, z_b: jax.Array) -> jax.Array:
    """The cross-correlation of two embeddings over the batch of all devices (equation 2).

    In float32. Deviations are biased, over as many images as divide the products: identical views
    have ones on the diagonal. A component that is the same for all images correlates with none, and
    has a 0 on the diagonal.

    Args:
      z_a: [B, D], of one view.
      z_b: [B, D], of the other.

    Returns:
      [D, D].
    """
    chex.assert_equal_shape([z_a, z_b])

    def standardized(z: jax.Array) -> jax.Array:
        z = z.astype(jnp.float32)
        # Twice: the first mean is rounded in proportion to its size. What that leaves in embeddings
        # that are all the same would pass for a deviation, and a collapse for agreement.
        for _ in range(2):
            z = z - collectives.mean(jnp.mean(z, axis=0, keepdims=True))
        variance = collectives.mean(jnp.mean(jnp.square(z), axis=0, keepdims=True))
        return z * jax.lax.rsqrt(variance + 1e-12)  # [B, D]

    # A statistic: on accelerators, products of float32 are rounded further unless told otherwise.
    products = jnp.dot(standardized(z_a).T, standardized(z_b), precision="highest")  # [D, D]
    return collectives.total(products) / (z_a.shape[0] * collectives.size())


def objective(c: jax.Array, off_diagonal: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """The terms of equation 1 for a correlation [D, D]: invariance, and weighted redundancy."""
    diagonal = jnp.diagonal(c)
    redundancy = jnp.sum(jnp.square(c)) - jnp.sum(jnp.square(diagonal))
    return jnp.sum(jnp.square(1 - diagonal)), off_diagonal * redundancy


class BarlowTwins:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "projector_sizes", "off_diagonal", "loss_scale")
        require(
            config.batch_size >= 2,
            f"--batch-size is {config.batch_size}; a correlation needs at least 2 images.",
        )
        require(len(config.projector_sizes) > 0, "--projector-sizes is empty; give a width.")

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images, the encoder, and its probes."""
        data = config.images.load()
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        probes = Probes(data, encoder, config.probing.probe_images)
        return Resources(data, encoder, start, probes.evaluation())

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates, shown=("eval/linear_accuracy", "train/loss"))
        probes = resources.evaluation.of(lambda learned: learned.encoder)
        self.evaluation = probes.drawing(self.pictures)
        self.data_digest = resources.data.digest
        self.encoder = resources.encoder
        self.views = (config.views.first, config.views.second)
        self.projector = hk.transform_with_state(
            lambda features, train: layers.Projector(config.projector_sizes)(features, train)
        )
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of training images."""
        images = self.resources.data.train._replace(labels=None)
        return BatchSource(images, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, projector_key = jax.random.split(key)
        encoder = self.resources.start or self.encoder.init(encoder_key)
        features = jnp.zeros((2, self.encoder.num_features))
        projector = Variables(*self.projector.init(projector_key, features, True))
        params = Parts(encoder.params, projector.params)
        statistics = Parts(encoder.state, projector.state)
        return State(params, statistics, self.optimizer.init(params))

    def embed(self, learned: Learned, images: jax.Array, is_training: bool) -> Embedded:
        """What the networks make of images [B, H, W, C] in [0, 1]."""
        features, encoder = self.encoder.apply(learned.encoder, images, is_training)
        params = learned.params.projector
        statistics = learned.statistics.projector
        z, projector = self.projector.apply(params, statistics, None, features, is_training)
        return Embedded(features, z, Parts(encoder, projector))

    def loss(
        self, params: Parts, statistics: Parts, x_a: jax.Array, x_b: jax.Array
    ) -> tuple[jax.Array, tuple[Parts, Metrics]]:
        """The loss of two views [B, H, W, C] of the same images; new statistics, what to log."""
        a = self.embed(Learned(params, statistics), x_a, True)
        b = self.embed(Learned(params, a.statistics), x_b, True)
        c = correlation(a.z, b.z)
        scale = self.config.loss_scale / c.shape[0]
        invariance, redundancy = objective(c, self.config.off_diagonal)
        metrics = {
            "train/invariance": scale * invariance,
            "train/redundancy": scale * redundancy,
            "train/feature_deviation": collapse.feature_deviation(b.features),
        }
        return scale * invariance + scale * redundancy, (b.statistics, metrics)

    def step(self, state: State, batch: Split, key: jax.Array) -> tuple[State, Metrics]:
        """Draws two views of every image and makes one update."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        x_a, x_b = views.draw(keys, batch.images, self.views)
        # The loss is one over all devices already; the mean of their gradients is its gradient.
        descent = optimizers.descend(
            self.loss, self.optimizer, state.params, state.opt_state, state.statistics, x_a, x_b
        )
        statistics, metrics = descent.aux
        metrics |= {"train/loss": descent.loss, "train/gradient_norm": descent.gradient_norm}
        return State(descent.params, statistics, descent.opt_state), metrics

    def learned(self, state: State) -> Learned:
        """Parameters and moving averages."""
        return Learned(state.params, state.statistics)

    def hand_over(self, learned: Learned, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder, without its projector."""
        files.save(path, self.encoder, learned.encoder, facts)

    def pictures(self, learned: Learned, seed: int, folder: Path) -> None:
        """Draws pairs of views, and their cross-correlation over test images."""
        test = self.resources.data.test.images
        shown = np.random.default_rng(seed).permutation(test.shape[0])[:512]
        keys = jax.random.split(jax.random.key(seed), len(shown))
        draw = jax.jit(lambda keys, images: views.draw(keys, images, self.views))
        embed = jax.jit(lambda learned, x: self.embed(learned, x, False).z)
        z_a = []
        z_b = []
        size = max(16, at_once(self.resources.data.shape))
        for start in range(0, len(shown), size):
            some = slice(start, start + size)
            x_a, x_b = draw(keys[some], test[shown[some]])
            if start == 0:
                pictures_of_images.pairs(x_a[:16], x_b[:16], folder / "views.png")
            z_a.append(embed(learned, x_a))
            z_b.append(embed(learned, x_b))
        c = correlation(jnp.concatenate(z_a), jnp.concatenate(z_b))
        pictures_of_features.correlation(c, folder / "correlation.png")
