"""Fine-tuning: what a run has learned, put to use where labels are few; images or text.

    python run.py --exp=finetune --init-from=RUN

A linear classifier on the encoder's features, normalized over the batch (He et al. 2022, appendix
A.1), under the cross-entropy. Beside it moves the whole encoder (`full`, perhaps with smaller steps
in lower layers), nothing else (`linear`), or low-rank matrices that are added to the encoder's
weights (`lora`: Hu et al. 2021), which are merged into them when the encoder is handed over.
`--from-scratch` starts the same network anew: what to compare with.
Shapes: B examples in a batch (on one device), F features of the encoder, K classes.
"""

import functools
from collections.abc import Mapping, Sequence
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
from missing_bits.data.labeled import Examples, Labeled
from missing_bits.data.load import is_text
from missing_bits.data.source import BatchSource
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders import files, lora
from missing_bits.encoders.files import AnyEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_positive
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.probes import in_batches
from missing_bits.eval.remembered import Remembered
from missing_bits.losses import classification
from missing_bits.metrics import Metrics
from missing_bits.nets.layers import BatchNorm
from missing_bits.options import row
from missing_bits.pictures import features as pictures_of_features
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Fine-tuning with few labels. Periods and budgets count updates."""

    data: str = ""
    """Labeled images or text, as for pretraining; empty for what the run of --init-from has learned
    from."""
    data_dir: str = ""
    """Where the files of fashion_mnist, cifar10 or imagenet lie; empty for the usual places."""
    image_size: int = 0
    """Side to which pictures of imagenet or a folder are resized, in pixels; 0 for 224 and 64."""
    init_from: str = ""
    """Folder of the run whose encoder to start from (of its first seed), or one of its .safetensors
    files. Needed."""
    from_scratch: bool = False
    """Take only the network of that run and start it anew: what to compare with."""
    labels_per_class: int = 10
    """Labeled examples of each class, drawn anew for each seed; 0 for all there are."""
    updates: int = 300
    """Budget, in updates."""
    batch_size: int = 50
    """Examples per update, over all devices."""
    method: Literal["full", "linear", "lora"] = "full"
    """What moves beside the classifier: the whole encoder, nothing, or low-rank additions to its
    weights."""
    layer_decay: float = 1.0
    """full, transformers: factor on the step size from each layer to the one below, above 0, at
    most 1."""
    lora_rank: int = 8
    """lora: rank of the additions."""
    lora_alpha: float = row(16.0)
    """lora: the additions are multiplied by this / rank."""
    classifier_rate: float = row(10.0)
    """Factor on the step size of the classifier, which starts anew."""
    views: Views = Views(crop_scale=(0.5, 1.0), jitter=0.0, gray=0.0, solarize=(0.0, 0.0))
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(learning_rate=1e-3, warmup=0.1)
    """How parameters move."""


_TESTED = 250  # test examples at once
PRESETS: dict[str, dict[str, Any]] = {"digits": {"views": {"flip": 0.0}}}
TINY = {"updates": 12, "batch_size": 16}  # and `init_from`, the folder of a run


class Params(NamedTuple):
    """What moves; a part that does not is {}."""

    classifier: Any
    encoder: Any  # full
    adapters: Any  # lora


class Statistics(NamedTuple):
    """Moving averages of batch normalization."""

    classifier: Any
    encoder: Any


class Learned(NamedTuple):
    """What a run has learned."""

    params: Params
    frozen: Any
    statistics: Statistics


class Tuned(NamedTuple):
    """Both networks as they are used: additions are merged."""

    encoder: Variables
    classifier: Variables


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    frozen: Any  # the encoder's parameters, {} where they move
    statistics: Statistics
    opt_state: optax.OptState


class Networks(NamedTuple):
    """An encoder and the classifier on its features."""

    encoder: AnyEncoder
    classifier: hk.TransformedWithState

    def logits(
        self, tuned: Tuned, inputs: jax.Array, encoder_moves: bool, is_training: bool
    ) -> tuple[jax.Array, Statistics]:
        """Logits [B, K] of images or passages, and new statistics.

        Args:
          tuned: variables.
          inputs: images [B, H, W, C] or tokens [B, L].
          encoder_moves: whether the encoder normalizes by the batch and gathers its statistics.
          is_training: whether the classifier does.
        """
        features, encoder = self.encoder.apply(tuned.encoder, inputs, encoder_moves)  # [B, F]
        params, state = tuned.classifier
        logits, classifier = self.classifier.apply(params, state, None, features, is_training)
        return logits, Statistics(classifier, encoder)


class Resources(NamedTuple):
    """What rows share."""

    networks: Networks
    loaded: Variables  # of the run
    data: Labeled
    evaluation: Evaluation  # of `Tuned`


class Finetune:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require(
            bool(config.init_from),
            "--exp=finetune needs --init-from: the folder of a finished pretraining, under runs/. "
            "--from-scratch still takes its network.",
        )
        require_positive(
            config, "updates", "batch_size", "lora_rank", "lora_alpha", "classifier_rate"
        )
        require(
            config.batch_size > 1,
            "--batch-size is 1, but features are normalized over the batch, which takes at least 2 "
            "examples: of one alone nothing is left.",
        )
        require(
            config.labels_per_class >= 0,
            f"--labels-per-class is {config.labels_per_class}; it must be at least 0.",
        )
        decay = config.layer_decay
        require(0 < decay <= 1, f"--layer-decay is {decay}; it must be above 0, at most 1.")
        require(
            decay == 1 or config.method == "full",
            f"--layer-decay is for --method=full; with {config.method} the encoder's weights do "
            "not move.",
        )

    @staticmethod
    def resources(config: Config) -> Resources:
        """The encoder, labeled data of its kind, the classifier, and what judges them."""
        loaded = files.load(config.init_from)
        data = _read(config, loaded)
        networks = Networks(
            loaded.encoder,
            hk.transform_with_state(lambda features, train: _classifier(data, features, train)),
        )
        return Resources(networks, loaded.variables, data, _evaluation(networks, data))

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.data = resources.data
        self.data_digest = resources.data.digest
        self.networks = resources.networks
        self.encoder = resources.networks.encoder
        self.loaded = resources.loaded
        self.plan = Plan(config.updates)
        # Remembered, so that evaluation meets the same merged weights again.
        self.evaluation = resources.evaluation.of(Remembered(self.tuned))
        self.view = config.views.first
        faster = Params(classifier=True, encoder=False, adapters=False)
        self.optimizer = optax.chain(
            optimizers.make(config.optimizer, config.updates),
            optax.masked(optax.scale(config.classifier_rate), faster),
        )
        if config.layer_decay < 1:
            smaller = optimizers.layerwise(config.layer_decay, resources.loaded.params)
            self.optimizer = optax.chain(self.optimizer, smaller)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of the few labeled examples, each seed its own."""
        count = self.config.labels_per_class
        train = self.data.train
        pools = [labeled.few(train.labels, self.data.classes, count, seed) for seed in seeds]
        return BatchSource(train, seeds, self.config.batch_size, pools)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        config = self.config
        encoder_key, classifier_key, adapter_key = jax.random.split(key, 3)
        encoder = self.encoder.init(encoder_key) if config.from_scratch else self.loaded
        features = jnp.zeros((2, self.encoder.num_features))
        classifier = Variables(*self.networks.classifier.init(classifier_key, features, True))
        full = config.method == "full"
        adapters = {}
        if config.method == "lora":
            adapters = lora.init(adapter_key, encoder.params, config.lora_rank)
        params = Params(classifier.params, encoder.params if full else {}, adapters)
        frozen = {} if full else encoder.params
        statistics = Statistics(classifier.state, encoder.state)
        return State(params, frozen, statistics, self.optimizer.init(params))

    def tuned(self, learned: Learned) -> Tuned:
        """Both networks' variables, with additions merged into the encoder's weights."""
        config = self.config
        params = learned.params
        statistics = learned.statistics
        encoder = params.encoder if config.method == "full" else learned.frozen
        if config.method == "lora":
            scale = config.lora_alpha / config.lora_rank
            encoder = lora.merge(encoder, params.adapters, scale)
        return Tuned(
            encoder=Variables(encoder, statistics.encoder),
            classifier=Variables(params.classifier, statistics.classifier),
        )

    def loss(
        self,
        params: Params,
        frozen: Any,
        statistics: Statistics,
        inputs: jax.Array,
        labels: jax.Array,
    ) -> tuple[jax.Array, tuple[Statistics, jax.Array]]:
        """The loss of examples with labels [B]; new statistics, and the accuracy.

        The encoder's statistics stay unless all of it moves.
        """
        tuned = self.tuned(Learned(params, frozen, statistics))
        encoder_moves = self.config.method == "full"
        logits, statistics = self.networks.logits(tuned, inputs, encoder_moves, True)  # [B, K]
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        return loss, (statistics, classification.accuracy(logits, labels))

    def step(self, state: State, batch: Examples, key: jax.Array) -> tuple[State, Metrics]:
        """Distorts images and makes one update."""
        inputs = batch.inputs
        if isinstance(self.encoder, ImageEncoder):
            keys = collectives.shard(jax.random.split(key, self.config.batch_size))
            inputs = views.view(keys, inputs, self.view)
        descent = optimizers.descend(
            self.loss,
            self.optimizer,
            state.params,
            state.opt_state,
            state.frozen,
            state.statistics,
            inputs,
            batch.labels,
        )
        statistics, accuracy = descent.aux
        metrics = {
            "train/loss": descent.loss,
            "train/accuracy": collectives.mean(accuracy),
            "train/gradient_norm": descent.gradient_norm,
        }
        return State(descent.params, state.frozen, statistics, descent.opt_state), metrics

    def learned(self, state: State) -> Learned:
        """Parameters, those that stay, and moving averages."""
        return Learned(state.params, state.frozen, state.statistics)

    def hand_over(self, learned: Learned, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder, and as its head the classifier with its statistics."""
        tuned = self.tuned(learned)
        head = {**tuned.classifier.params, **tuned.classifier.state}
        files.save(path, self.encoder, tuned.encoder, facts, head)


def _classifier(data: Labeled, features: jax.Array, is_training: bool) -> jax.Array:
    """Logits [B, K] of features [B, F]."""
    return hk.Linear(len(data.classes))(BatchNorm(affine=False)(features, is_training))


def _evaluation(networks: Networks, data: Labeled) -> Evaluation:
    """The accuracy of `Tuned` networks on the test split, and which classes are taken for which."""
    test = data.test
    classify = jax.jit(lambda tuned, inputs: networks.logits(tuned, inputs, False, False)[0])

    @Remembered  # scores and confusion ask for the same
    def predictions(tuned: Tuned) -> np.ndarray:
        logits = in_batches(functools.partial(classify, tuned), test.inputs, _TESTED)
        return np.argmax(logits, axis=1)

    def scores(tuned: Tuned, key: jax.Array, last: bool) -> dict[str, float]:
        return {"eval/accuracy": float(np.mean(predictions(tuned) == test.labels))}

    def baselines(key: jax.Array) -> dict[str, float]:
        counts = np.bincount(test.labels)
        return {"baseline/commonest_accuracy": float(counts.max() / counts.sum())}

    def pictures(tuned: Tuned, seed: int, folder: Path) -> None:
        pictures_of_features.confusion(
            test.labels, predictions(tuned), data.classes, folder / "confusion.png"
        )

    return Evaluation(Headline("eval/accuracy"), scores, baselines, pictures)


def _read(config: Config, loaded: files.Loaded) -> Labeled:
    """The data, of the kind and size that the encoder was made for."""
    encoder = loaded.encoder
    require(
        files.kind_of(encoder) != "graphs",
        f"--init-from={config.init_from} holds an encoder of graphs; give one of images or text.",
    )
    saved = _options(loaded.card.get("config", {}))
    kind = "images" if isinstance(encoder, ImageEncoder) else "text"
    name = config.data or saved["data"]
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
    data_dir = config.data_dir
    image_size = config.image_size
    if not config.data:  # as the run had them, unless they are given
        data_dir = data_dir or saved["data_dir"]
        image_size = image_size or saved["image_size"]
    data = labeled.images(name, data_dir, image_size)
    shape = data.train.inputs.shape[1:]
    require(
        shape == encoder.image_shape,
        f"--init-from={config.init_from} holds an encoder of images {encoder.image_shape} (height, "
        f"width, channels); those of --data={name} are {shape}.",
    )
    return data


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration in JSON says of its data, be it in a group; else nothing.

    It comes from a file: what is of another type counts as nothing too.
    """
    found: dict[str, Any] = {"data": "", "data_dir": "", "image_size": 0}
    for group in (*config.values(), config):
        if isinstance(group, Mapping):
            for name, default in found.items():
                if type(group.get(name)) is type(default):
                    found[name] = group[name]
    return found
