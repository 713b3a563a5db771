"""The comparison: the same network, augmentation and optimizer, trained with labels.

    python run.py --exp=supervised  # two minutes on two cores: kNN 88 %, raw pixels 54 % (docs/results.md)

What labels add is the distance between the scores of this run and of a pretraining on the same data: the probes are
the same. One distorted view per image; cross-entropy on a linear classifier of the encoder's features.
Shapes: B images in a batch (on one device), H, W, C of an image, F features of the encoder, K classes.
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
from missing_bits.augment import views
from missing_bits.augment.views import Views
from missing_bits.data.images import Split
from missing_bits.data.load import load
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import encoder_of
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval.probes import Probes


@dataclass(frozen=True)
class Config:
    """Training with labels. Periods and budgets count updates."""

    data: str = "photos"
    """Labeled images: photos, digits, fashion_mnist, cifar10, imagenet, npz:PATH, folder:PATH."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""
    probe_images: int = 0
    """Training images that the probes learn from, at most, evenly spaced; 0 for all."""
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    network: Literal["convnet", "resnet18", "resnet50", "vit_micro", "vit_tiny", "vit_small"] = (
        "convnet"
    )
    """Encoder."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16; parameters and statistics stay float32."""
    label_smoothing: float = 0.0
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


class State(NamedTuple):
    """Everything a run knows."""

    params: dict[str, Any]  # of "encoder" and "classifier"
    statistics: dict[str, Any]  # moving averages of batch normalization, of the encoder
    opt_state: optax.OptState


class Supervised:
    """The method, as functions on `State`."""

    unit, unit_per_update, evaluations, small = "updates", 1, 4, False
    headline, split_over_devices = "eval/accuracy", ("batch_size",)

    def __init__(self, config: Config) -> None:
        check(config)
        self.config, self.budget = config, config.updates
        self.data = load(config.data, config.data_dir, config.image_size)
        self.data_digest = self.data.digest
        self.encoder = ImageEncoder(
            config.network, self.data.shape, *self.data.moments(), config.bfloat16
        )
        self.classifier = hk.without_apply_rng(
            hk.transform(lambda x: hk.Linear(len(self.data.classes))(x))
        )
        self.optimizer = optimizers.make(config.optimizer, config.updates)
        self.probes = Probes(self.data, self.encoder, config.probe_images)
        require(
            self.probes.labeled,
            f"--data={config.data} has no labels; give some, or use --exp=barlow_twins.",
        )
        self.baselines = self.probes.baselines

    def source(self, seeds: Any) -> BatchSource:
        """Batches of training images with their labels."""
        return BatchSource(self.data.train, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, classifier_key = jax.random.split(key)
        encoder = self.encoder.init(encoder_key)
        classifier = self.classifier.init(classifier_key, jnp.zeros((2, self.encoder.num_features)))
        params = {"encoder": encoder.params, "classifier": classifier}
        return State(params, {"encoder": encoder.state}, self.optimizer.init(params))

    def loss(
        self, params: Any, statistics: Any, x: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Mean cross-entropy over images [B, H, W, C] with labels [B]; the new statistics and the accuracy."""
        features, moved = self.encoder.apply(encoder_of((params, statistics)), x, True)
        logits = self.classifier.apply(params["classifier"], features)  # [B, K]
        targets = optax.smooth_labels(
            jax.nn.one_hot(labels, logits.shape[1]), self.config.label_smoothing
        )
        accuracy = jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))
        return jnp.mean(optax.softmax_cross_entropy(logits, targets)), (
            {"encoder": moved},
            accuracy,
        )

    def step(
        self, state: State, batch: Split, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Draws a view of every image and makes one update."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        x = views.view(keys, batch.images, self.config.views, 0)
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (statistics, accuracy)), grads = gradient(
            state.params, state.statistics, x, batch.labels
        )
        loss, accuracy, grads = collectives.mean((loss, accuracy, grads))
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "train/loss": loss,
            "train/accuracy": accuracy,
            "train/gradient_norm": optax.tree.norm(grads),
        }
        return State(optax.apply_updates(state.params, updates), statistics, opt_state), metrics

    def learned(self, state: State) -> tuple[Any, Any]:
        """Parameters and moving averages."""
        return state.params, state.statistics

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """The classifier's accuracy on the test split, and probes of the encoder."""
        features = self.probes.features(encoder_of(learned), self.data.test)
        guesses = np.argmax(self.classifier.apply(learned[0]["classifier"], features), axis=1)
        accuracy = float(np.mean(guesses == self.data.test.labels))
        return {"eval/accuracy": accuracy, **self.probes.scores(encoder_of(learned))}

    def hand_over(self, learned: Any, path: Path, facts: Any) -> None:
        """Writes the encoder, without its classifier."""
        files.save(path, self.encoder, encoder_of(learned), facts)

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """What the probes have to show."""
        self.probes.pictures(encoder_of(learned), folder)


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    require_positive(config, "updates", "batch_size")
    require_between(config, 0, 0.999, "label_smoothing")
    views.check(config.views)
