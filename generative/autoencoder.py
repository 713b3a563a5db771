"""Autoencoder: an image through a few numbers and back; with noise, a denoiser.

Rumelhart et al. 1986; Hinton and Salakhutdinov 2006; for noise Vincent et al. 2008.

    python run.py --exp=autoencoder --latent=2
    python run.py --exp=denoiser

The encoder f, a linear layer to Z numbers and a decoder g are trained together to give the image
back, with p what g says of an image by way of its numbers (a Gaussian, a Bernoulli or an error):

    loss = - sum over pixels of log p(x | g(f(x + noise)))        a mean over images

A linear g and f would find the principal components, which are the baseline. With noise the encoder
gets x + noise and is still to give x. A network of full resolution then needs no bottleneck: it
says what to subtract (Zhang et al. 2017, equation 1).

What is handed over is the encoder without the linear layer to Z numbers, which stands beside it.
Shapes: B images in a batch (on one device), H, W, C of an image, F features of the encoder, Z
numbers in the bottleneck, D channels of a network of full resolution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from missing_bits import collectives, optimizers
from missing_bits.data import binarized
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import Images
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import Encoder, ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import collapse, denoising, latent_maps, reconstruction
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.probes import Probes, Probing
from missing_bits.generative import generators
from missing_bits.generative.generators import Head, ImageGenerator
from missing_bits.losses import likelihoods
from missing_bits.metrics import Metrics
from missing_bits.nets import generator, vision
from missing_bits.nets.conv import Conv2D
from missing_bits.options import Flat
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Autoencoder. Periods and budgets count updates."""

    images: Flat[Images] = Images(data="digits")
    encoder: Flat[Encoder] = Encoder(network="plain_convnet")
    probing: Flat[Probing] = Probing()
    updates: int = 2_000
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    latent: int = 8
    """Numbers in the bottleneck; 2 make a map. A network of full resolution has none."""
    decoder: generator.Network = "conv"
    """Network from the bottleneck to the image."""
    decoder_width: int = 32
    """Channels of the decoder's last map; an MLP has layers of 8 times as many units."""
    output: Literal["squared_error", "gaussian", "bernoulli"] = "squared_error"
    """What the decoder says of an image: its pixels; their means and one deviation for all, which
    is learned; or the probability that a pixel is white, for images that are black and white."""
    noise: float = 0.0
    """Deviation of the Gaussian noise that is added to what the encoder gets, of pixels in [0, 1];
    above 0 makes a denoiser, judged by what it removes."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer()
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {  # what ten minutes on two cores suffice for
    "fashion_mnist": {"updates": 5_000, "decoder_width": 16, "probe_images": 10_000}
}
TINY = {
    "data": "digits",
    "network": "mlp",
    "updates": 12,
    "batch_size": 16,
    "latent": 2,
    "decoder": "mlp",
    "decoder_width": 4,
    "probe_images": 100,
}

_CURVES = (
    "train/loss",
    "train/squared_error",
    "eval/knn_accuracy",
    "eval/linear_accuracy",
    "eval/effective_rank",
)
_HEADS: dict[str, Head] = {
    "squared_error": "linear",
    "gaussian": "shared_scale",
    "bernoulli": "sigmoid",
}
_LIKELIHOODS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "squared_error": likelihoods.squared_error,
    "gaussian": likelihoods.gaussian,
    "bernoulli": likelihoods.bernoulli,
}


class Params(NamedTuple):
    """Parameters of all networks."""

    encoder: Any
    head: Any  # of the layer on the encoder: to the bottleneck, or to what is subtracted
    decoder: Any  # empty without a bottleneck


class Learned(NamedTuple):
    """What a run has learned."""

    params: Params
    statistics: Any  # the encoder's moving averages of batch normalization

    @property
    def encoder(self) -> Variables:
        """The encoder's variables."""
        return Variables(self.params.encoder, self.statistics)


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    statistics: Any  # the encoder's moving averages of batch normalization
    opt_state: optax.OptState


class Output(NamedTuple):
    """What networks make of images."""

    numbers: jax.Array  # [B, H, W, C], or with scales [B, H, W, 2 C]
    statistics: Any  # the encoder's new moving averages
    features: jax.Array  # [B, F]


@dataclass(frozen=True)
class Bottleneck:
    """Networks that lead an image through Z numbers."""

    encoder: ImageEncoder
    head: hk.Transformed
    """Maps features [B, F] to codes [B, Z]."""
    decoder: ImageGenerator

    @classmethod
    def make(cls, encoder: ImageEncoder, config: Config) -> "Bottleneck":
        """The networks of a configuration."""
        head = hk.transform(lambda features: hk.Linear(config.latent, name="code")(features))
        decoder = ImageGenerator(
            encoder.image_shape,
            config.latent,
            config.decoder,
            config.decoder_width,
            head=_HEADS[config.output],
        )
        return cls(encoder, hk.without_apply_rng(head), decoder)

    def init(self, key: jax.Array, start: Variables | None) -> Learned:
        """Fresh parameters, but for those of the encoder if it has a start."""
        encoder_key, head_key, decoder_key = jax.random.split(key, 3)
        encoder = start or self.encoder.init(encoder_key)
        head = self.head.init(head_key, jnp.zeros((2, self.encoder.num_features)))
        decoder = self.decoder.init(decoder_key)
        return Learned(Params(encoder.params, head, decoder.params), encoder.state)

    def apply(self, learned: Learned, x: jax.Array, is_training: bool = False) -> Output:
        """What images [B, H, W, C] become."""
        features, statistics = self.encoder.apply(learned.encoder, x, is_training)
        codes = self.head.apply(learned.params.head, features)  # [B, Z]
        numbers, _ = self.decoder.apply(Variables(learned.params.decoder, {}), codes)
        return Output(numbers, statistics, features)

    def codes(self, learned: Learned, x: jax.Array) -> jax.Array:
        """The numbers [B, Z] that images [B, H, W, C] are led through."""
        features, _ = self.encoder.apply(learned.encoder, x)
        return self.head.apply(learned.params.head, features)

    def decode(self, learned: Learned, codes: jax.Array) -> jax.Array:
        """Images [B, H, W, C] of codes [B, Z]."""
        return self.decoder.generate(Variables(learned.params.decoder, {}), codes)

    def images(self, numbers: jax.Array) -> jax.Array:
        """Images [B, H, W, C] of what `apply` gives."""
        return self.decoder.images(numbers)


@dataclass(frozen=True)
class Residual:
    """A network of full resolution, which says what to subtract from a noisy image."""

    encoder: ImageEncoder
    head: hk.Transformed
    """Maps the encoder's maps [B, H, W, D] to [B, H, W, C]."""

    @classmethod
    def make(cls, encoder: ImageEncoder) -> "Residual":
        """The network; it starts with nothing to subtract."""
        channels = encoder.image_shape[2]
        head = hk.transform(lambda maps: Conv2D(channels, 3, w_init=jnp.zeros, name="noise")(maps))
        return cls(encoder, hk.without_apply_rng(head))

    def init(self, key: jax.Array, start: Variables | None) -> Learned:
        """Fresh parameters, but for those of the encoder if it has a start."""
        encoder_key, head_key = jax.random.split(key)
        encoder = start or self.encoder.init(encoder_key)
        maps = self.encoder.maps(encoder, jnp.zeros((1, *self.encoder.image_shape)))
        return Learned(Params(encoder.params, self.head.init(head_key, maps), {}), encoder.state)

    def apply(self, learned: Learned, x: jax.Array, is_training: bool = False) -> Output:
        """What noisy images [B, H, W, C] become."""
        maps = self.encoder.maps(learned.encoder, x)
        noise = self.head.apply(learned.params.head, maps)
        return Output(x - noise, learned.statistics, jnp.mean(maps, axis=(1, 2)))

    def images(self, numbers: jax.Array) -> jax.Array:
        """The same."""
        return numbers


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet
    networks: Bottleneck | Residual
    start: Variables | None
    evaluation: Evaluation  # of `Learned`


class Autoencoder:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size")
        require_between(config, 1, generators.LARGEST["latent"], "latent")
        require_between(config, 1, generators.LARGEST["width"], "decoder_width")
        require_between(config, 0, 10, "noise")
        config.encoder.check_batch(config.batch_size)
        if vision.has_maps(config.encoder.network):
            network = f"--network={config.encoder.network}"
            require(
                config.noise > 0,
                f"{network} keeps every pixel, so that without noise it has nothing to learn; give "
                "--noise=0.3, or another network.",
            )
            require(
                config.output == "squared_error",
                f"--output={config.output} is for networks with a bottleneck; {network} takes "
                "squared_error.",
            )

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images, networks, and what judges them."""
        data = config.images.load()
        require(
            config.output != "bernoulli" or binarized.are_binary(data.train),
            f"--output=bernoulli is for black and white, but --data={config.images.data} has "
            "grays; choose squared_error or gaussian, or --exp=vae, which binarizes.",
        )
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        probes = Probes(data, encoder, config.probing.probe_images)
        of_encoder = probes.evaluation().of(lambda learned: learned.encoder)
        networks: Bottleneck | Residual
        if vision.has_maps(config.encoder.network):
            networks = Residual.make(encoder)
        else:
            networks = Bottleneck.make(encoder, config)

        def back(learned: Learned, x: jax.Array) -> jax.Array:
            return networks.images(networks.apply(learned, x).numbers)

        if config.noise > 0:
            evaluation = denoising.evaluation(data, back, config.noise)
        else:
            evaluation = reconstruction.evaluation(data, back, config.latent)
        if isinstance(networks, Bottleneck) and config.latent == 2:
            maps = latent_maps.pictures(data, networks.codes, networks.decode)
            evaluation = evaluation.drawing(maps)
        return Resources(data, networks, start, evaluation.join(of_encoder))

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates, drawn=_CURVES)
        self.evaluation = resources.evaluation
        self.data_digest = resources.data.digest
        self.networks = resources.networks
        self.log_likelihood = _LIKELIHOODS[config.output]
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of training images."""
        images = self.resources.data.train._replace(labels=None)
        return BatchSource(images, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        learned = self.networks.init(key, self.resources.start)
        return State(learned.params, learned.statistics, self.optimizer.init(learned.params))

    def loss(
        self, params: Params, statistics: Any, seen: jax.Array, x: jax.Array
    ) -> tuple[jax.Array, Output]:
        """The loss of images x [B, H, W, C] of which the encoder gets `seen`, and the output."""
        output = self.networks.apply(Learned(params, statistics), seen, is_training=True)
        return -jnp.mean(self.log_likelihood(output.numbers, x)), output

    def step(self, state: State, batch: Split, key: jax.Array) -> tuple[State, Metrics]:
        """Draws noise, if there is any, and makes one update."""
        x = batch.images.astype(jnp.float32) / 255
        seen = x
        if self.config.noise > 0:
            keys = collectives.shard(jax.random.split(key, self.config.batch_size))
            noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
            seen = x + self.config.noise * noise
        descent = optimizers.descend(
            self.loss, self.optimizer, state.params, state.opt_state, state.statistics, seen, x
        )
        output: Output = descent.aux
        error = jnp.mean(jnp.square(self.networks.images(output.numbers) - x))
        metrics = {
            "train/loss": descent.loss,
            "train/squared_error": collectives.mean(error),
            "train/gradient_norm": descent.gradient_norm,
            "train/feature_deviation": collapse.feature_deviation(output.features),
        }
        return State(descent.params, output.statistics, descent.opt_state), metrics

    def learned(self, state: State) -> Learned:
        """Parameters and moving averages."""
        return Learned(state.params, state.statistics)

    def hand_over(self, learned: Learned, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder, and beside it the layer that stood on it."""
        files.save(path, self.networks.encoder, learned.encoder, facts, learned.params.head)
