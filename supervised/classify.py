"""The comparison: the same networks, augmentation and optimizer, trained with labels.

Two minutes on two cores: kNN 88 %, raw pixels 54 % (docs/results/).

    python run.py --exp=classify

What labels add is the distance between the scores of this run and of a pretraining on the same
data: the probes are the same. One distorted view per image; the cross-entropy of a linear
classifier on the encoder's features.
Shapes: B images in a batch (on one device), H, W, C of an image, F features of the encoder, K
classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.probes import Probes, Probing
from missing_bits.losses import classification
from missing_bits.metrics import Metrics
from missing_bits.options import Flat, row
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Training with labels. Periods and budgets count updates."""

    images: Flat[Images] = Images()
    encoder: Flat[Encoder] = Encoder()
    probing: Flat[Probing] = Probing()
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    label_smoothing: float = row(0.0)
    """Share of the target that is spread over all classes, 0 up to 1."""
    views: Views = Views()
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer()
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {  # the budgets and distortions of barlow_twins
    "digits": {
        "views": {"crop_scale": (0.6, 1.0), "flip": 0.0, "jitter": 0.0, "solarize": (0.0, 0.0)}
    },
    "fashion_mnist": {"updates": 3_500, "views": {"crop_scale": (0.2, 1.0)}},
}
TINY = {
    "data": "digits",
    "network": "vit_nano",
    "updates": 12,
    "batch_size": 16,
    "probe_images": 100,
}


class Parts(NamedTuple):
    """Parameters of both networks."""

    encoder: Any
    classifier: Any


class Learned(NamedTuple):
    """What a run has learned."""

    params: Parts
    statistics: Any  # the encoder's moving averages of batch normalization

    @property
    def encoder(self) -> Variables:
        """The encoder's variables."""
        return Variables(self.params.encoder, self.statistics)


class State(NamedTuple):
    """Everything a run knows."""

    params: Parts
    statistics: Any  # the encoder's moving averages of batch normalization
    opt_state: optax.OptState


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet
    encoder: ImageEncoder
    start: Variables | None
    classifier: hk.Transformed
    evaluation: Evaluation  # of `Learned`


class Classify:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size")
        config.encoder.check_batch(config.batch_size)
        require_between(config, 0, 0.999, "label_smoothing")

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images with labels, both networks, and what judges them."""
        data = config.images.load()
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        probes = Probes(data, encoder, config.probing.probe_images)
        require(
            probes.labeled,
            f"--data={config.images.data} has no labels; give some, or use --exp=barlow_twins.",
        )
        classifier = hk.without_apply_rng(
            hk.transform(lambda features: hk.Linear(len(data.classes))(features))
        )

        def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
            features = probes.test_features(learned.encoder)
            logits = classifier.apply(learned.params.classifier, features)
            right = np.argmax(logits, axis=1) == data.test.labels
            return {"eval/accuracy": float(np.mean(right))}

        accuracy = Evaluation(Headline("eval/accuracy"), scores)
        evaluation = accuracy.join(probes.evaluation().of(lambda learned: learned.encoder))
        return Resources(data, encoder, start, classifier, evaluation)

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates)
        self.evaluation = resources.evaluation
        self.data_digest = resources.data.digest
        self.encoder = resources.encoder
        self.classifier = resources.classifier
        self.view = config.views.first
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of images with their labels."""
        return BatchSource(self.resources.data.labeled, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, classifier_key = jax.random.split(key)
        encoder = self.resources.start or self.encoder.init(encoder_key)
        features = jnp.zeros((2, self.encoder.num_features))
        params = Parts(encoder.params, self.classifier.init(classifier_key, features))
        return State(params, encoder.state, self.optimizer.init(params))

    def loss(
        self, params: Parts, statistics: Any, x: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """The loss of images [B, H, W, C] with labels [B]; new statistics, and the accuracy."""
        encoder = Variables(params.encoder, statistics)
        features, statistics = self.encoder.apply(encoder, x, True)  # [B, F]
        logits = self.classifier.apply(params.classifier, features)  # [B, K]
        loss = classification.cross_entropy(logits, labels, self.config.label_smoothing)
        return loss, (statistics, classification.accuracy(logits, labels))

    def step(self, state: State, batch: Split, key: jax.Array) -> tuple[State, Metrics]:
        """Draws a view of every image and makes one update."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        x = views.view(keys, batch.images, self.view)
        descent = optimizers.descend(
            self.loss,
            self.optimizer,
            state.params,
            state.opt_state,
            state.statistics,
            x,
            batch.labels,
        )
        statistics, accuracy = descent.aux
        metrics = {
            "train/loss": descent.loss,
            "train/accuracy": collectives.mean(accuracy),
            "train/gradient_norm": descent.gradient_norm,
        }
        return State(descent.params, statistics, descent.opt_state), metrics

    def learned(self, state: State) -> Learned:
        """Parameters and moving averages."""
        return Learned(state.params, state.statistics)

    def hand_over(self, learned: Learned, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder, without its classifier."""
        files.save(path, self.encoder, learned.encoder, facts)
