"""Fine-tuning: what a run has learned, put to use where labels are few; images or text.

    python run.py --exp=finetune --init-from=RUN

A linear classifier on the encoder's features, normalized over the batch (He et al. 2022, appendix A.1), under the
cross-entropy. Beside it moves the whole encoder (`full`, perhaps with smaller steps in lower layers), nothing else
(`linear`), or low-rank matrices that are added to the encoder's weights (`lora`: Hu et al. 2021), which are merged into
them when the encoder is handed over.
`--from-scratch` starts the same network anew: what to compare with.
Shapes: B examples in a batch (on one device), F features of the encoder, K classes.
"""

import functools
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
from missing_bits.data import labeled
from missing_bits.data.labeled import Examples
from missing_bits.data.load import is_text
from missing_bits.data.source import BatchSource
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders import files, lora
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval.probes import in_batches
from missing_bits.nets.layers import BatchNorm
from missing_bits.pictures import features as features_pictures


@dataclass(frozen=True)
class Config:
    """Fine-tuning with few labels. Periods and budgets count updates."""

    data: str = ""
    """Labeled images or text, as for pretraining; empty for what the run of --init-from has learned from."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""
    init_from: str = ""
    """Folder of the run whose encoder to start from (of its first seed), or one of its .safetensors files. Needed."""
    from_scratch: bool = False
    """Take only the network of that run and start it anew: what to compare with."""
    labels_per_class: int = 10
    """Labeled examples of each class, drawn anew for each seed; 0 for all there are."""
    updates: int = 300
    """Budget, in updates."""
    batch_size: int = 50
    """Examples per update, over all devices."""
    method: Literal["full", "linear", "lora"] = "full"
    """What moves beside the classifier: the whole encoder, nothing, or low-rank additions to its weights."""
    layer_decay: float = 1.0
    """full, transformers: factor on the step size from each layer to the one below, above 0, at most 1."""
    lora_rank: int = 8
    """lora: rank of the additions."""
    lora_alpha: float = 16.0
    """lora: the additions are multiplied by this / rank."""
    classifier_rate: float = 10.0
    """Factor on the step size of the classifier, which starts anew."""
    views: Views = Views(crop_scale=(0.5, 1.0), jitter=0.0, gray=0.0, solarize=(0.0, 0.0))
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(learning_rate=1e-3, warmup=0.1)
    """How parameters move."""


_TESTED = 250  # test examples at once
PRESETS: dict[str, dict[str, Any]] = {"digits": {"views": {"flip": 0.0}}}


class State(NamedTuple):
    """Everything a run knows."""

    params: dict[str, Any]  # what moves: "classifier", and "encoder" or "adapters" or nothing else
    frozen: dict[str, Any]  # what does not: the "encoder", unless it moves
    statistics: dict[
        str, Any
    ]  # moving averages of batch normalization, of "encoder" and "classifier"
    opt_state: optax.OptState


class Finetune:
    """The method, as functions on `State`."""

    unit, unit_per_update, evaluations, small = "updates", 1, 4, False
    headline, split_over_devices = "eval/accuracy", ("batch_size",)

    def __init__(self, config: Config) -> None:
        check(config)
        self.config, self.budget = config, config.updates
        loaded = files.load(config.init_from)
        self.encoder, self.start = loaded.encoder, None if config.from_scratch else loaded.variables
        self.data = _read(config, loaded)
        self.data_digest = self.data.digest
        self.classifier = hk.transform_with_state(self._classifier)
        faster = optax.masked(optax.scale(config.classifier_rate), _of_the_classifier)
        self.optimizer = optax.chain(optimizers.make(config.optimizer, config.updates), faster)
        if config.layer_decay < 1:
            smaller = optimizers.layerwise(config.layer_decay, loaded.variables.params)
            self.optimizer = optax.chain(self.optimizer, smaller)
        self._classify = jax.jit(lambda learned, inputs: self.logits(*learned, inputs, False)[0])

    def _classifier(self, features: jax.Array, is_training: bool) -> jax.Array:
        return hk.Linear(len(self.data.classes))(BatchNorm(affine=False)(features, is_training))

    def source(self, seeds: Any) -> BatchSource:
        """Batches of the few labeled examples, each seed its own."""
        (_, labels), classes = self.data.train, self.data.classes
        pools = [labeled.few(labels, classes, self.config.labels_per_class, seed) for seed in seeds]
        return BatchSource(self.data.train, seeds, self.config.batch_size, pools)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        encoder_key, classifier_key, adapter_key = jax.random.split(key, 3)
        encoder, encoder_state = self.start or self.encoder.init(encoder_key)
        features = jnp.zeros((2, self.encoder.num_features))
        classifier, classifier_state = self.classifier.init(classifier_key, features, True)
        moves, frozen = {"classifier": classifier}, {"encoder": encoder}
        if self.config.method == "full":
            moves, frozen = moves | frozen, {}
        if self.config.method == "lora":
            moves["adapters"] = lora.init(adapter_key, encoder, self.config.lora_rank)
        statistics = {"encoder": encoder_state, "classifier": classifier_state}
        return State(moves, frozen, statistics, self.optimizer.init(moves))

    def merged(self, params: Any, frozen: Any, statistics: Any) -> Variables:
        """The encoder's variables, additions included."""
        encoder = (params | frozen)["encoder"]
        if self.config.method == "lora":
            encoder = lora.merge(
                encoder, params["adapters"], self.config.lora_alpha / self.config.lora_rank
            )
        return Variables(encoder, statistics["encoder"])

    def logits(
        self, params: Any, frozen: Any, statistics: Any, inputs: Any, is_training: bool
    ) -> tuple[Any, Any]:
        """Logits [B, K] of images or passages, and the new statistics; the encoder's stay unless all of it moves."""
        encoder, moves = (
            self.merged(params, frozen, statistics),
            is_training and self.config.method == "full",
        )
        features, encoder_state = self.encoder.apply(encoder, inputs, moves)
        classifier = params["classifier"], statistics["classifier"]
        logits, classifier_state = self.classifier.apply(*classifier, None, features, is_training)
        return logits, {"encoder": encoder_state, "classifier": classifier_state}

    def loss(
        self, params: Any, frozen: Any, statistics: Any, inputs: Any, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Mean cross-entropy of examples with labels [B]; the new statistics and the accuracy."""
        logits, statistics = self.logits(params, frozen, statistics, inputs, True)
        accuracy = jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), (
            statistics,
            accuracy,
        )

    def step(
        self, state: State, batch: Examples, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Distorts images and makes one update."""
        inputs = batch.inputs
        if isinstance(self.encoder, ImageEncoder):
            keys = collectives.shard(jax.random.split(key, self.config.batch_size))
            inputs = views.view(keys, inputs, self.config.views, 0)
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (statistics, accuracy)), grads = gradient(
            state.params, state.frozen, state.statistics, inputs, batch.labels
        )
        loss, accuracy, grads = collectives.mean((loss, accuracy, grads))
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "train/loss": loss,
            "train/accuracy": accuracy,
            "train/gradient_norm": optax.tree.norm(grads),
        }
        return State(
            optax.apply_updates(state.params, updates), state.frozen, statistics, opt_state
        ), metrics

    def learned(self, state: State) -> tuple[Any, Any, Any]:
        """Parameters, those that stay, and moving averages."""
        return state.params, state.frozen, state.statistics

    def predictions(self, learned: Any) -> np.ndarray:
        """The classes [N] that the test examples are given."""
        classify = functools.partial(self._classify, learned)
        return np.argmax(in_batches(classify, self.data.test.inputs, _TESTED), axis=1)

    def evaluate(self, learned: Any, key: jax.Array) -> dict[str, float]:
        """Accuracy on the test split."""
        return {"eval/accuracy": float(np.mean(self.predictions(learned) == self.data.test.labels))}

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """The accuracy of naming the commonest class of the test split."""
        counts = np.bincount(self.data.test.labels)
        return {"baseline/commonest_accuracy": float(counts.max() / counts.sum())}

    def hand_over(self, learned: Any, path: Path, facts: Any) -> None:
        """Writes the encoder, additions merged, and the classifier with its statistics as its head."""
        head = learned[0]["classifier"] | learned[2]["classifier"]
        files.save(path, self.encoder, self.merged(*learned), facts, head)

    def pictures(self, learned: Any, seed: int, folder: Path) -> None:
        """Which classes are taken for which."""
        labels = self.data.test.labels
        features_pictures.confusion(
            labels, self.predictions(learned), self.data.classes, folder / "confusion.png"
        )


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    require(
        bool(config.init_from),
        "--exp=finetune needs --init-from: the folder of a finished pretraining, under runs/. --from-scratch still "
        "takes its network.",
    )
    require_positive(config, "updates", "batch_size", "lora_alpha", "classifier_rate")
    require(
        config.labels_per_class >= 0,
        f"--labels-per-class is {config.labels_per_class}; it must be at least 0.",
    )
    require(
        0 < config.layer_decay <= 1,
        f"--layer-decay is {config.layer_decay}; it must be above 0, at most 1.",
    )
    require(
        config.layer_decay == 1 or config.method == "full",
        f"--layer-decay is for --method=full; with {config.method} the encoder's weights do not move.",
    )
    lora.check(config.lora_rank)
    views.check(config.views)


def _of_the_classifier(params: dict[str, Any]) -> dict[str, Any]:
    return {
        name: jax.tree.map(lambda _, name=name: name == "classifier", part)
        for name, part in params.items()
    }


def _read(config: Config, loaded: files.Loaded) -> labeled.Labeled:
    """The data, of the kind and size that the encoder was made for."""
    encoder, saved, kind = (
        loaded.encoder,
        loaded.card.get("config", {}),
        files.kind_of(loaded.encoder),
    )
    name = config.data or saved.get("data")
    require(
        bool(name),
        f"--init-from={config.init_from} does not tell what it has learned from; give --data.",
    )
    found = "text" if is_text(name) else "images"
    require(
        kind == found,
        f"--init-from={config.init_from} holds an encoder of {kind}, but --data={name} is {found}.",
    )
    if kind == "text":
        return labeled.text(name, Tokenizer.from_json(encoder.tokenizer), encoder.length)
    data_dir, image_size = config.data_dir, config.image_size
    if not config.data:  # as the run had them, unless they are given
        data_dir, image_size = data_dir or saved["data_dir"], image_size or saved["image_size"]
    data = labeled.images(name, data_dir, image_size)
    shape = data.train.inputs.shape[1:]
    require(
        shape == encoder.image_shape,
        f"--init-from={config.init_from} holds an encoder of images {encoder.image_shape} (height, width, channels); "
        f"those of --data={name} are {shape}.",
    )
    return data
