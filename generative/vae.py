"""Variational autoencoder: latents that follow a normal, so that drawing from it gives images.

Kingma and Welling 2013; with several samples of the latents Burda et al. 2016 (IWAE).

    python run.py --exp=vae
    python run.py sample --from=RUN

An encoder gives a normal q(z | x) of independent latents, a decoder p(x | z). Trained is the bound
on log p(x), in nats per image (equation 3, with the closed form of appendix B):

    ELBO = E_q[log p(x | z)] - beta KL(q(z | x) || N(0, 1))

or with K samples of z from q, log (1 / K) sum_k p(x | z_k) (p(z_k) / q(z_k | x))^beta (Burda et
al., equation 8). log p(x | z) is a sum over the pixels of an image, never a mean. beta other than 1
trains another objective (Higgins et al. 2017); what is reported is always the bound.

Free bits (Kingma et al. 2016, equation 15): a latent whose divergence, averaged over the batch of
all devices, is below a threshold costs the threshold, and so is left in peace.

What is handed over is the decoder: a generator (generators.py).
Shapes: B images in a batch (on one device), H, W, C of an image, Z latents, K samples of them, F
features of the encoder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
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
from missing_bits.eval import latent_maps, latent_variables
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.generated import Draw, Judged, Judging, to_bytes
from missing_bits.generative import album, generators
from missing_bits.generative.album import Album
from missing_bits.generative.generators import Head, ImageGenerator
from missing_bits.losses import likelihoods, variational
from missing_bits.losses.variational import Normal
from missing_bits.metrics import Metrics
from missing_bits.nets import generator, vision
from missing_bits.notes import say
from missing_bits.options import Flat, row
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Variational autoencoder. Periods and budgets count updates."""

    images: Flat[Images] = Images(data="digits")
    encoder: Flat[Encoder] = Encoder(network="plain_convnet")
    updates: int = 3_000
    """Budget, in updates."""
    batch_size: int = 128
    """Images per update, over all devices."""
    latent: int = 16
    """Z, numbers in the latent; 2 make a map."""
    decoder: generator.Network = "conv"
    """Network from the latent to the image."""
    decoder_width: int = 32
    """Channels of the decoder's last map; an MLP has layers of 8 times as many units."""
    output: Literal["bernoulli", "logistic", "gaussian"] = "logistic"
    """Distribution of an image: of black and white; of bytes, a logistic in 256 steps, judged in
    bits per dimension too; or a density, with one deviation for all pixels."""
    binarize: binarized.Protocol = "none"
    """Makes black and white of grays for --output=bernoulli: once and for all (static), or for
    training anew at each sight (dynamic)."""
    beta: float = row(1.0)
    """Weight of the divergence; 1 trains the bound."""
    importance_samples: int = 1
    """K, of the latents of each image in training; above 1 trains the tighter bound of IWAE."""
    free_bits: float = row(0.0)
    """Nats of divergence that each latent has for free, with one sample."""
    conditional: bool = False
    """Give encoder and decoder the label too, so that images of a class can be drawn."""
    judging: Flat[Judging] = Judging()
    bound_images: int = 1_000
    """Test images, at most, whose likelihood is estimated."""
    bound_samples: int = 100
    """K, of the latents of each, for the bound at the end of the run."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(learning_rate=1e-3)
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {  # what ten minutes on two cores suffice for
    "fashion_mnist": {"updates": 5_000, "latent": 32, "decoder_width": 16}
}
TINY = {
    "data": "digits",
    "network": "mlp",
    "updates": 12,
    "batch_size": 16,
    "latent": 2,
    "decoder": "mlp",
    "decoder_width": 4,
    "bound_images": 30,
    "bound_samples": 4,
    "eval_samples": 30,
    "judge_updates": 3,
    "fresh_updates": 3,
}

_DRAWN_AT_ONCE = 500  # images
_CURVES = (
    "train/loss",
    "eval/reconstruction",
    "eval/kl",
    "eval/active_units",
    "eval/bits_per_dimension",
)
_HEADS: dict[str, Head] = {
    "bernoulli": "sigmoid",
    "logistic": "scales",
    "gaussian": "shared_scale",
}
_LIKELIHOODS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "bernoulli": likelihoods.bernoulli,
    "logistic": likelihoods.logistic,
    "gaussian": likelihoods.gaussian,
}


class Params(NamedTuple):
    """Parameters of all networks."""

    encoder: Any
    posterior: Any  # of the layer on the encoder
    decoder: Any


class Learned(NamedTuple):
    """What a run has learned."""

    params: Params
    statistics: Any  # the encoder's moving averages of batch normalization


class Whole(NamedTuple):
    """What a run has learned, and how its samples came to be."""

    networks: Learned
    album: Album


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    statistics: Any  # the encoder's moving averages of batch normalization
    opt_state: optax.OptState
    album: Album


class Encoded(NamedTuple):
    """What the encoder says of images."""

    q: Normal  # [B, Z]
    statistics: Any  # its new moving averages


@dataclass(frozen=True)
class Networks:
    """The networks, and what the decoder's numbers mean."""

    encoder: ImageEncoder
    head: hk.Transformed
    """Maps (features [B, F], labels [B] or None) to a `Normal` of latents [B, Z]."""
    generator: ImageGenerator
    likelihood: Callable[[jax.Array, jax.Array], jax.Array]
    """log p(x), [...], of numbers [..., H, W, N] and images [..., H, W, C]."""

    @property
    def latent(self) -> int:
        """Z."""
        return self.generator.latent

    def init(self, key: jax.Array, start: Variables | None) -> Learned:
        """Fresh parameters, but for those of the encoder if it has a start."""
        encoder_key, head_key, decoder_key = jax.random.split(key, 3)
        encoder = start or self.encoder.init(encoder_key)
        features = jnp.zeros((2, self.encoder.num_features))
        head = self.head.init(head_key, features, jnp.zeros(2, jnp.int32))
        decoder = self.generator.init(decoder_key)
        return Learned(Params(encoder.params, head, decoder.params), encoder.state)

    def encode(
        self, learned: Learned, x: jax.Array, labels: jax.Array | None, is_training: bool
    ) -> Encoded:
        """The posterior of images [B, H, W, C], with labels [B] where it is conditional."""
        encoder = Variables(learned.params.encoder, learned.statistics)
        features, statistics = self.encoder.apply(encoder, x, is_training)
        return Encoded(self.head.apply(learned.params.posterior, features, labels), statistics)

    def posterior(self, learned: Learned, x: jax.Array, labels: jax.Array | None) -> Normal:
        """q(z | x) of images [B, H, W, C]."""
        return self.encode(learned, x, labels, is_training=False).q

    def log_likelihood(
        self, learned: Learned, x: jax.Array, z: jax.Array, labels: jax.Array | None
    ) -> jax.Array:
        """log p(x | z), [K, B], of latents [K, B, Z]."""
        samples, count, latent = z.shape
        repeated = None if labels is None else jnp.tile(labels, samples)
        decoder = Variables(learned.params.decoder, {})
        numbers, _ = self.generator.apply(decoder, z.reshape(-1, latent), repeated)
        numbers = numbers.reshape(samples, count, *numbers.shape[1:])
        return jax.vmap(lambda numbers: self.likelihood(numbers, x))(numbers)

    def generate(self, learned: Learned, z: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Images [B, H, W, C] of latents [B, Z]."""
        return self.generator.generate(Variables(learned.params.decoder, {}), z, labels)


def drawing(networks: Networks, output: str, known: np.ndarray | None) -> Draw:
    """What draws images of latents of the prior, few at once.

    Of "bernoulli" these are draws, in black and white; of other distributions the means.

    Args:
      networks: of the model.
      output: the distribution of images.
      known: the training labels, int [N], as often as which labels are drawn; None without labels.
    """
    generate = jax.jit(networks.generate)

    def draw(learned: Learned, key: jax.Array, count: int) -> np.ndarray:
        latent_key, pixel_key, label_key = jax.random.split(key, 3)
        z = jax.random.normal(latent_key, (count, networks.latent))
        labels = None
        if known is not None:
            labels = jax.random.choice(label_key, jnp.asarray(known), (count,))
        found = []
        for start in range(0, count, _DRAWN_AT_ONCE):
            some = slice(start, start + _DRAWN_AT_ONCE)
            images = generate(learned, z[some], None if labels is None else labels[some])
            if output == "bernoulli":
                key = jax.random.fold_in(pixel_key, start)
                images = jax.random.uniform(key, images.shape) < images
            found.append(to_bytes(images))
        return np.concatenate(found)

    return draw


def draw_album(learned: Whole, seed: int, folder: Path) -> None:
    """Writes the samples over training as a GIF."""
    album.draw(learned.album, folder / "samples_over_training.gif")


class Bound(NamedTuple):
    """What the loss finds on its way, over this device's images."""

    log_likelihood: jax.Array  # scalar: the mean of log p(x | z)
    kl: jax.Array  # scalar: the mean of the divergence
    statistics: Any  # the encoder's new moving averages


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet
    networks: Networks
    start: Variables | None
    evaluation: Evaluation  # of `Whole`


class VAE:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size")
        require_positive(config, "importance_samples", "bound_images", "bound_samples")
        require_between(config, 1, generators.LARGEST["latent"], "latent")
        require_between(config, 1, generators.LARGEST["width"], "decoder_width")
        require_between(config, 0, float("inf"), "beta", "free_bits")
        config.encoder.check_batch(config.batch_size)
        require(
            config.binarize == "none" or config.output == "bernoulli",
            f"--binarize={config.binarize} is for --output=bernoulli, not for {config.output}.",
        )
        samples = config.importance_samples
        require(
            samples == 1 or config.free_bits == 0,
            f"--free-bits is {config.free_bits}, which goes with one sample of the latents, but "
            f"--importance-samples is {samples}; leave one of them out.",
        )
        require(
            not vision.has_maps(config.encoder.network),
            f"--network={config.encoder.network} is for --exp=denoiser; choose another one.",
        )

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images, binarized where that was asked for, networks, and what judges them."""
        name = config.images.data
        data = config.images.load()
        if config.output == "bernoulli" and config.binarize == "none":
            require(
                binarized.are_binary(data.train) and binarized.are_binary(data.test),
                f"--output=bernoulli is for black and white, but --data={name} has grays; name a "
                "protocol (--binarize=static or dynamic), or take --output=logistic.",
            )
        labeled = data.train.labels is not None and data.test.labels is not None
        require(
            labeled or not config.conditional,
            f"--conditional needs labels, but --data={name} has none for all its images; leave it "
            "out, or give others.",
        )
        # Samples are compared with what they were taught to look like.
        real = binarized.load(data, "none" if config.binarize == "none" else "static")
        data = binarized.load(data, config.binarize)
        if config.binarize != "none":
            say(f"Images binarized ({config.binarize}): SHA-256 {data.digest}.")
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        classes = len(data.classes) if config.conditional else 0
        decoder = ImageGenerator(
            data.shape,
            config.latent,
            config.decoder,
            config.decoder_width,
            head=_HEADS[config.output],
            classes=classes,
        )

        def head(features: jax.Array, labels: jax.Array | None) -> Normal:
            if classes:
                features = jnp.concatenate([features, jax.nn.one_hot(labels, classes)], axis=1)
            both = hk.Linear(2 * config.latent, name="posterior")(features)
            return Normal(*jnp.split(both, 2, axis=1))

        networks = Networks(
            encoder,
            hk.without_apply_rng(hk.transform(head)),
            decoder,
            _LIKELIHOODS[config.output],
        )
        how = latent_variables.Judging(config.bound_images, config.bound_samples)
        evaluation = latent_variables.evaluation(
            data, networks, how, config.output, config.conditional
        )
        if config.latent == 2 and not config.conditional:
            maps = latent_maps.pictures(
                data,
                lambda learned, x: networks.posterior(learned, x, None).mean,
                lambda learned, z: networks.generate(learned, z, None),
            )
            evaluation = evaluation.drawing(maps)
        known = data.train.labels if config.conditional else None
        draw = drawing(networks, config.output, known)
        judged = Judged(real, config.judging).evaluation(draw)
        evaluation = evaluation.join(judged.at_last()).of(lambda whole: whole.networks)
        return Resources(data, networks, start, evaluation.drawing(draw_album))

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates, shown=("train/loss", "eval/log_likelihood"), drawn=_CURVES)
        self.evaluation = resources.evaluation
        self.data_digest = resources.data.digest
        self.networks = resources.networks
        self.generator = resources.networks.generator
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of training images, with their labels where these are conditioned on."""
        images = self.resources.data.train
        if not self.config.conditional:
            images = images._replace(labels=None)
        return BatchSource(images, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        learned = self.networks.init(key, self.resources.start)
        frames = album.empty(self.generator.image_shape, self.config.updates)
        opt_state = self.optimizer.init(learned.params)
        return State(learned.params, learned.statistics, opt_state, frames)

    def loss(
        self,
        params: Params,
        statistics: Any,
        x: jax.Array,
        labels: jax.Array | None,
        noise: jax.Array,
    ) -> tuple[jax.Array, Bound]:
        """The negative bound on images [B, H, W, C], with draws of a normal [K, B, Z].

        Args:
          params: of the networks.
          statistics: the encoder's moving averages.
          x: in [0, 1].
          labels: int [B], or None.
          noise: what makes latents of the posterior.
        """
        learned = Learned(params, statistics)
        q, statistics = self.networks.encode(learned, x, labels, is_training=True)
        z = q.at(noise)
        log_p = self.networks.log_likelihood(learned, x, z, labels)  # [K, B]
        kl = jnp.mean(variational.kl(q), axis=0)  # [Z]
        if self.config.importance_samples == 1:
            # A threshold on the mean of all devices: each alone would be another objective.
            regularizer = jnp.sum(jnp.maximum(collectives.mean(kl), self.config.free_bits))
            loss = self.config.beta * regularizer - jnp.mean(log_p)
        else:
            log_weights = log_p + self.config.beta * variational.log_ratio(q, z)
            loss = -jnp.mean(variational.importance_bound(log_weights))
        return loss, Bound(jnp.mean(log_p), jnp.sum(kl), statistics)

    def step(self, state: State, batch: Split, key: jax.Array) -> tuple[State, Metrics]:
        """Draws latents, and black and white where that is dynamic, and makes one update."""
        noise_key, pixel_key = jax.random.split(key)
        x = batch.images.astype(jnp.float32) / 255
        if self.config.binarize == "dynamic":
            keys = collectives.shard(jax.random.split(pixel_key, self.config.batch_size))
            drawn = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
            x = (drawn < x).astype(jnp.float32)
        keys = collectives.shard(jax.random.split(noise_key, self.config.batch_size))
        shape = (self.config.importance_samples, self.config.latent)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(keys)  # [K, B, Z]
        descent = optimizers.descend(
            self.loss,
            self.optimizer,
            state.params,
            state.opt_state,
            state.statistics,
            x,
            batch.labels,
            noise,
        )
        bound: Bound = descent.aux
        metrics = {
            "train/loss": descent.loss,
            "train/log_likelihood": collectives.mean(bound.log_likelihood),
            "train/kl": collectives.mean(bound.kl),
            "train/gradient_norm": descent.gradient_norm,
        }
        frames = self.filled(state.album, Learned(descent.params, bound.statistics))
        return State(descent.params, bound.statistics, descent.opt_state, frames), metrics

    def filled(self, frames: Album, learned: Learned) -> Album:
        """The album after one more update."""

        def generate(z: jax.Array, numbers: jax.Array) -> jax.Array:
            classes = self.generator.classes
            return self.networks.generate(learned, z, numbers % classes if classes else None)

        return album.filled(frames, generate, self.networks.latent, self.config.updates)

    def learned(self, state: State) -> Whole:
        """Parameters and moving averages, and the album."""
        return Whole(Learned(state.params, state.statistics), state.album)

    def hand_over(self, learned: Whole, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the decoder as a generator."""
        if self.config.conditional:
            facts = {**facts, "classes": list(self.resources.data.classes)}
        generators.save(path, self.generator, Variables(learned.networks.params.decoder, {}), facts)
