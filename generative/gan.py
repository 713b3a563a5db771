"""Generative adversarial network: a generator whose images a discriminator cannot tell from real.

Goodfellow et al. 2014. On the ring of 8 Gaussians, runs of 90,000 updates (two seeds) found all
modes, with 90 % of the points within three deviations of one.

    python run.py --exp=gan
    python run.py --exp=gan --data=ring

The generator G maps latents z, drawn from a standard normal, to images; the discriminator D gives a
logit that an image is real. With s the logistic function they play (equation 1)

    min over G, max over D:  mean of log s(D(x)) + mean of log(1 - s(D(G(z))))

where G in practice climbs log s(D(G(z))) instead (section 3, "non_saturating"). Other losses:
losses/adversarial.py. D's slope at real images is penalized (R1, Mescheder et al. 2018), without
which the two circle around each other.

Each update moves both networks at once, by the same latents, each by the gradient of its own loss
alone. What is judged and handed over is a moving average of G's parameters, which the game's
circles do not reach (Yazici et al. 2019). Deviations: of wgan_gp the discriminator makes one step
for each of the generator (five in Gulrajani et al. 2017), and slopes are those at images as the
discriminator sees them, distorted where there is an augmentation.
Shapes: B images in a batch (on one device), H, W, C of an image, Z numbers in a latent.
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
from missing_bits.augment import differentiable
from missing_bits.augment.differentiable import Distortion
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import ImagesOrPoints
from missing_bits.data.points import Points
from missing_bits.data.source import BatchSource
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import modes
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.eval.generated import Judged, Judging, to_bytes
from missing_bits.generative import album, generators
from missing_bits.generative.album import Album
from missing_bits.generative.generators import ImageGenerator
from missing_bits.losses import adversarial
from missing_bits.metrics import Metrics
from missing_bits.nets import discriminator, generator, spectral
from missing_bits.options import Flat, row
from missing_bits.pictures import generated as pictures
from missing_bits.pictures import images as images_pictures
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Generative adversarial network. Periods and budgets count updates."""

    images: Flat[ImagesOrPoints] = ImagesOrPoints()
    judging: Flat[Judging] = Judging()
    updates: int = 4_000
    """Budget, in updates."""
    batch_size: int = 64
    """Real images per update, over all devices, and as many generated ones."""
    latent: int = 64
    """Numbers in a latent."""
    latent_scale: float = 1.0
    """What latents are multiplied by before the generator's first layer, above 0. Data of modes far
    apart need a generator that changes fast between two latents: above 1 it does from the start,
    and learns to faster."""
    network: generator.Network = "conv"
    """Of both networks."""
    width: int = 32
    """Channels of the generator's last map; its hidden layers have 8 times as many units."""
    discriminator_width: int = 32
    """Channels of the discriminator's first map; an MLP's layers have 8 times as many units."""
    generator_norm: generator.Norm = "batch"
    """Normalization in the generator."""
    discriminator_norm: discriminator.Norm = "none"
    """In the discriminator: none, batch, or weights of spectral norm 1 (Miyato et al. 2018)."""
    conditional: bool = False
    """Give both networks the label too, so that images of a class can be drawn."""
    loss: adversarial.Loss = "non_saturating"
    """What the networks play for; wgan_gp, which has a penalty of its own, needs --no-r1."""
    r1: bool = True
    """Penalize the discriminator's slope at real images (Mescheder et al. 2018)."""
    r1_weight: float = row(1.0)
    """Gamma, the weight of that penalty, at least 0."""
    r1_end: float = row(1.0)
    """The last weight as a share of the first, to which it falls as a cosine, at least 0: sharp
    details at last, where a strong penalty early keeps all modes (as in Huang et al. 2024)."""
    gradient_penalty: float = row(10.0)
    """Lambda, the weight of the penalty of wgan_gp, at least 0."""
    augmentation: tuple[Distortion, ...] = ()
    """How all images are distorted that the discriminator sees: color, translation, cutout
    (DiffAugment, Zhao et al. 2020)."""
    average: float = row(0.998)
    """Share that the moving average of the generator keeps at an update, 0 up to 1; fewer in the
    first updates."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=3e-3, momentum=0.0, squares=0.99, weight_decay=0.0, warmup=0.0, end=0.1
    )
    """How parameters of both networks move."""
    discriminator_rate: float = row(1.0)
    """The discriminator's step size as a multiple of the generator's, above 0."""


_POINT_SETTINGS = {
    "network": "mlp",
    "generator_norm": "none",
    "width": 16,
    "discriminator_width": 16,
    "latent": 2,
    "latent_scale": 4.0,  # what lies between modes is what a generator changes too slowly for
    "average": 0.9995,
    "eval_samples": 2_500,
    "optimizer": {"learning_rate": 4e-3, "momentum": 0.5, "end": 0.05},
}
# What ten minutes on two cores suffice for.
_SMALL_IMAGES = {"width": 16, "discriminator_width": 8, "r1_weight": 0.3}
PRESETS: dict[str, dict[str, Any]] = {
    # Weights of R1 go with the square of the distance between modes: stronger ones blur, weaker
    # ones lose modes. So do small batches where there are many modes.
    "ring": {
        **_POINT_SETTINGS,
        "updates": 240_000,
        "batch_size": 32,
        "r1_weight": 0.01,
        "r1_end": 0.001,
        "discriminator_rate": 2.0,
    },
    "grid": {
        **_POINT_SETTINGS,
        "updates": 400_000,
        "batch_size": 128,
        "r1_weight": 0.05,
        "r1_end": 0.03,
        "discriminator_rate": 1.5,
    },
    "digits": {"updates": 8_000, **_SMALL_IMAGES},
    "fashion_mnist": {"updates": 6_000, **_SMALL_IMAGES},
}
TINY = {
    "data": "digits",
    "network": "mlp",
    "width": 4,
    "discriminator_width": 4,
    "latent": 4,
    "updates": 12,
    "batch_size": 16,
    "average": 0.5,
    "eval_samples": 30,
    "judge_updates": 3,
    "fresh_updates": 3,
}

_HIDDEN = 2  # layers before the generator's first map
_POINTS = 500  # in a frame of the album
_DRAWN = (
    *("eval/frechet_distance", "eval/diversity"),
    *("eval/modes", "eval/share_near", "eval/mode_deviation", "eval/mode_kl"),
    *("train/generator_loss", "train/discriminator_loss", "train/discriminator_accuracy"),
    *("train/real_logit", "train/fake_logit", "train/penalty"),
)
_AT_ONCE = 500  # images that are generated at once
_STEPS = 10  # of an interpolation


class Networks(NamedTuple):
    """Something of each network."""

    generator: Any
    discriminator: Any


class State(NamedTuple):
    """Everything a run knows."""

    params: Networks
    statistics: Networks  # moving averages of batch normalization
    vectors: spectral.Vectors  # of the discriminator's spectral normalization; empty without it
    average: Variables  # the moving average of the generator
    opt_state: Networks
    album: Album


class Learned(NamedTuple):
    """What a run has learned."""

    average: Variables  # the moving average of the generator
    album: Album


class Generated(NamedTuple):
    """What the generator made on its way to a loss."""

    x: jax.Array  # [B, H, W, C], as the discriminator sees images
    statistics: Any  # new moving averages of batch normalization


class Judgment(NamedTuple):
    """What the discriminator's loss finds on its way, over this device's images."""

    real: jax.Array  # logits [B]
    fake: jax.Array  # logits [B]
    penalty: jax.Array  # scalar, weighted
    statistics: Any  # new moving averages of batch normalization
    vectors: spectral.Vectors


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet | Points
    generator: ImageGenerator
    discriminator: hk.TransformedWithState
    """Of (images [B, H, W, C], labels [B] or None), to logits [B]."""
    evaluation: Evaluation  # of `Learned`


class GAN:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size", "discriminator_rate")
        require_between(config, 1, generators.LARGEST["latent"], "latent")
        require_between(config, 1, generators.LARGEST["width"], "width", "discriminator_width")
        require_positive(config, "latent_scale")
        require_between(config, 0, generators.LARGEST_SCALE, "latent_scale")
        require_between(config, 0, float("inf"), "r1_weight", "r1_end", "gradient_penalty")
        require_between(config, 0, 0.999999, "average")
        normalizes = "batch" in (config.generator_norm, config.discriminator_norm)
        require(
            config.batch_size >= 2 or not normalizes,
            f"--batch-size is {config.batch_size}, but a network normalizes over the batch; give "
            "at least 2, or --generator-norm=none and no --discriminator-norm=batch.",
        )
        own = config.loss == "wgan_gp"
        require(
            not (own and config.r1),
            "--loss=wgan_gp has a penalty of its own, and --r1 is another; add --no-r1.",
        )
        penalty = "--loss=wgan_gp" if own else "--r1"
        require(
            config.discriminator_norm != "batch" or not (own or config.r1),
            f"{penalty} penalizes the slope of each image's logit, which batch normalization ties "
            "to the other images: take --discriminator-norm=none or spectral, or another loss and "
            "--no-r1.",
        )
        points = config.images.are_points
        require(
            not points or config.network == "mlp",
            f"--data={config.images.data} are points; take --network=mlp for them, not "
            f"{config.network}.",
        )
        require(
            not (points and config.augmentation),
            f"--augmentation is for images, but --data={config.images.data} are points.",
        )
        require(
            not (points and config.conditional),
            f"--conditional needs labels, but --data={config.images.data} has none; leave it out.",
        )

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images or points, both networks, and what judges the generator."""
        data = config.images.load()
        classes = 0
        if config.conditional:
            require(
                data.train.labels is not None,
                f"--conditional needs labels, but --data={config.images.data} has none for its "
                "training images; leave it out, or give others.",
            )
            classes = len(data.classes)
        points = isinstance(data, Points)
        made = ImageGenerator(
            (1, 1, 2) if points else data.shape,
            config.latent,
            config.network,
            config.width,
            config.generator_norm,
            "linear" if points else "tanh",
            classes,
            config.latent_scale,
            _HIDDEN,
        )
        judges = hk.transform_with_state(
            lambda x, labels: discriminator.Discriminator(
                config.network,
                config.discriminator_width,
                config.discriminator_norm == "batch",
                classes,
            )(x, labels)
        )
        if points:
            evaluation = of_points(data, made, config.judging)
        else:
            evaluation = of_images(data, made, config.judging)
        return Resources(data, made, judges, evaluation)

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.generator = resources.generator
        self.discriminator = resources.discriminator
        self.is_image = not isinstance(resources.data, Points)
        self.plan = Plan(
            config.updates,
            evaluations=8,
            small=config.network == "mlp",
            shown=("train/generator_loss", "train/discriminator_loss"),
            drawn=_DRAWN,
        )
        self.evaluation = resources.evaluation
        self.data_digest = resources.data.digest
        move = optimizers.make(config.optimizer, config.updates)
        slower = optax.chain(move, optax.scale(config.discriminator_rate))
        self.optimizers = Networks(move, slower)

    def source(self, seeds: Sequence[int]) -> BatchSource | None:
        """Batches of real images, with labels where they matter; points are drawn in the update."""
        if not self.is_image:
            return None
        images = self.resources.data.train
        if not self.config.conditional:
            images = images._replace(labels=None)
        return BatchSource(images, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        generator_key, discriminator_key, vector_key = jax.random.split(key, 3)
        made = self.generator.init(generator_key)
        x = jnp.zeros((2, *self.generator.image_shape))
        judges, statistics = self.discriminator.init(discriminator_key, x, jnp.zeros(2, jnp.int32))
        spectrally = self.config.discriminator_norm == "spectral"
        params = Networks(made.params, judges)
        frames = album.empty(self.generator.image_shape, self.config.updates)
        if not self.is_image:
            shape = self.generator.image_shape
            frames = album.empty(shape, self.config.updates, _POINTS, jnp.float32)
        return State(
            params,
            Networks(made.state, statistics),
            spectral.start(judges, vector_key) if spectrally else {},
            made,
            Networks(*(move.init(p) for move, p in zip(self.optimizers, params, strict=True))),
            frames,
        )

    def generate(
        self,
        params: hk.Params,
        statistics: hk.State,
        z: jax.Array,
        labels: jax.Array | None,
        keys: jax.Array,
    ) -> Generated:
        """Images of latents [B, Z], labels [B] and keys [B], as the discriminator sees them."""
        variables = Variables(params, statistics)
        numbers, statistics = self.generator.apply(variables, z, labels, is_training=True)
        images = self.generator.images(numbers)
        return Generated(self.seen(images, keys), statistics)

    def seen(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Images in [0, 1], or points, [B, H, W, C], as the discriminator sees them."""
        if not self.is_image:
            return images
        return differentiable.distort(keys, 2 * images - 1, self.config.augmentation)

    def discriminator_loss(
        self,
        params: hk.Params,
        state: State,
        real: jax.Array,
        fake: jax.Array,
        labels: jax.Array | None,
        shares: jax.Array,
    ) -> tuple[jax.Array, Judgment]:
        """The loss of the discriminator, whose parameters alone it moves.

        Args:
          params: the discriminator's.
          state: before the update.
          real: [B, H, W, C].
          fake: [B, H, W, C].
          labels: [B] of both, or None.
          shares: [B] in [0, 1], of the real images where wgan_gp looks at slopes.
        """
        config = self.config
        params, vectors = spectral.normalize(params, state.vectors)

        def score(x: jax.Array) -> tuple[jax.Array, Any]:
            return self.discriminator.apply(params, state.statistics.discriminator, None, x, labels)

        of_fake, _ = score(fake)  # apart from the real ones: statistics are not mixed
        penalty = jnp.float32(0)
        if config.r1:
            of_real, slopes, statistics = adversarial.sloped(score, real)
            penalty = self.r1_weight(state.album.count) * adversarial.r1(slopes)
        else:
            of_real, statistics = score(real)
        if config.loss == "wgan_gp":
            middle = adversarial.between(real, fake, shares)
            slopes = adversarial.sloped(score, middle).slopes
            penalty = config.gradient_penalty * adversarial.gradient_penalty(slopes)
        loss = adversarial.discriminator(config.loss, of_real, of_fake) + penalty
        return loss, Judgment(of_real, of_fake, penalty, statistics, vectors)

    def r1_weight(self, count: jax.Array) -> jax.Array:
        """Gamma after `count` updates."""
        config = self.config
        falling = (1 + jnp.cos(jnp.pi * count / config.updates)) / 2  # from 1 to 0
        return config.r1_weight * (config.r1_end + (1 - config.r1_end) * falling)

    def generator_loss(
        self,
        params: hk.Params,
        state: State,
        z: jax.Array,
        labels: jax.Array | None,
        keys: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """The loss of the generator, whose parameters alone it moves, and its new statistics.

        Args:
          params: the generator's.
          state: before the update.
          z: latents [B, Z].
          labels: [B], or None.
          keys: [B], of the distortions.
        """
        made = self.generate(params, state.statistics.generator, z, labels, keys)
        judges, _ = spectral.normalize(state.params.discriminator, state.vectors)
        logits, _ = self.discriminator.apply(
            judges, state.statistics.discriminator, None, made.x, labels
        )
        return adversarial.generator(self.config.loss, logits), made.statistics

    def step(self, state: State, batch: Split | None, key: jax.Array) -> tuple[State, Metrics]:
        """Draws latents and moves both networks once."""
        size = self.config.batch_size
        z_key, share_key, real_key, fake_key = jax.random.split(key, 4)
        z = collectives.shard(jax.random.normal(z_key, (size, self.config.latent)))
        shares = collectives.shard(jax.random.uniform(share_key, (size,)))
        fake_keys = collectives.shard(jax.random.split(fake_key, size))
        real, labels = self.real(batch, real_key)

        # The same images as in the generator's loss: the compiler makes them once.
        made = self.generate(
            state.params.generator, state.statistics.generator, z, labels, fake_keys
        )
        judging = optimizers.descend(
            self.discriminator_loss,
            self.optimizers.discriminator,
            state.params.discriminator,
            state.opt_state.discriminator,
            state,
            real,
            made.x,
            labels,
            shares,
        )
        making = optimizers.descend(
            self.generator_loss,
            self.optimizers.generator,
            state.params.generator,
            state.opt_state.generator,
            state,
            z,
            labels,
            fake_keys,
        )
        found: Judgment = judging.aux
        new = Variables(making.params, making.aux)
        average = self.moved(state.average, new, state.album.count)
        right = (jnp.mean(found.real > 0) + jnp.mean(found.fake <= 0)) / 2
        metrics = {
            "train/generator_loss": making.loss,
            "train/discriminator_loss": judging.loss,
            "train/discriminator_accuracy": collectives.mean(right),
            "train/real_logit": collectives.mean(jnp.mean(found.real)),
            "train/fake_logit": collectives.mean(jnp.mean(found.fake)),
            "train/penalty": collectives.mean(found.penalty),
            "train/generator_gradient_norm": making.gradient_norm,
            "train/discriminator_gradient_norm": judging.gradient_norm,
        }
        state = State(
            Networks(making.params, judging.params),
            Networks(making.aux, found.statistics),
            found.vectors,
            average,
            Networks(making.opt_state, judging.opt_state),
            self.filled(state.album, average),
        )
        return state, metrics

    def real(self, batch: Split | None, key: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Real images [B, H, W, C] as the discriminator sees them, and labels [B] or None."""
        size = self.config.batch_size
        if not self.is_image:
            drawn = collectives.shard(self.resources.data.draw(key, size))
            return drawn[:, None, None, :], None
        keys = collectives.shard(jax.random.split(key, size))
        return self.seen(batch.images.astype(jnp.float32) / 255, keys), batch.labels

    def moved(self, average: Variables, new: Variables, count: jax.Array) -> Variables:
        """The moving average after one more update, `count` of which were made before.

        Early on it keeps (1 + count) / (10 + count), so that it soon forgets the start.
        """
        kept = jnp.minimum(self.config.average, (1 + count) / (10 + count))
        return jax.tree.map(lambda old, now: kept * old + (1 - kept) * now, average, new)

    def filled(self, frames: Album, average: Variables) -> Album:
        """The album after one more update."""

        def generate(z: jax.Array, numbers: jax.Array) -> jax.Array:
            classes = self.generator.classes
            labels = numbers % classes if classes else None
            return self.generator.generate(average, z, labels)

        return album.filled(frames, generate, self.config.latent, self.config.updates)

    def learned(self, state: State) -> Learned:
        """The moving average of the generator, and the album."""
        return Learned(state.average, state.album)

    def hand_over(self, learned: Learned, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the moving average of the generator."""
        names = {"classes": list(self.resources.data.classes)} if self.generator.classes else {}
        generators.save(path, self.generator, learned.average, {**facts, **names})


def of_images(data: ImageSet, made: ImageGenerator, judging: Judging) -> Evaluation:
    """How generated images are judged and drawn."""
    generate = jax.jit(made.generate)

    def draw(learned: Learned, key: jax.Array, count: int) -> np.ndarray:
        """Images of latents of the prior and of labels as frequent as in training."""
        z_key, label_key = jax.random.split(key)
        z = jax.random.normal(z_key, (count, made.latent))
        labels = None
        if made.classes:
            labels = jax.random.choice(label_key, jnp.asarray(data.train.labels), (count,))
        return in_parts(generate, learned.average, z, labels)

    def drawn(learned: Learned, seed: int, folder: Path) -> None:
        """Interpolations, and the album as a GIF."""
        ends = jax.random.normal(jax.random.key(seed), (2, 8, made.latent))
        z = generators.interpolated(*np.asarray(ends), _STEPS).reshape(-1, made.latent)
        labels = jnp.repeat(jnp.arange(8) % made.classes, _STEPS) if made.classes else None
        between = in_parts(generate, learned.average, z, labels)
        title = "From one latent to another" + (", a class in each row" if made.classes else "")
        images_pictures.grid(between, _STEPS, title, folder / "interpolations.png")
        album.draw(learned.album, folder / "samples_over_training.gif")

    return Judged(data, judging).evaluation(draw).drawing(drawn)


def of_points(data: Points, made: ImageGenerator, judging: Judging) -> Evaluation:
    """How generated points are judged and drawn."""
    generate = jax.jit(made.generate)
    count = judging.eval_samples

    def draw(learned: Learned, key: jax.Array) -> np.ndarray:
        z = jax.random.normal(key, (count, made.latent))
        return np.asarray(generate(learned.average, z)).reshape(count, 2)

    def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
        return modes.count(draw(learned, key), data.centers, data.deviation).metrics

    def baselines(key: jax.Array) -> dict[str, float]:
        found = modes.count(data.draw(key, count), data.centers, data.deviation).metrics
        return {f"baseline/true_{name.removeprefix('eval/')}": x for name, x in found.items()}

    def drawn(learned: Learned, seed: int, folder: Path) -> None:
        real = np.asarray(data.draw(jax.random.key(seed), _POINTS))
        found = album.made(learned.album)
        frames = [pictures.points(frame.reshape(-1, 2), real, data.reach) for frame in found.frames]
        path = folder / "samples_over_training.gif"
        pictures.growth(frames, found.updates.tolist(), path, pictures.POINTS)

    headline = Headline("eval/share_near")
    protocol = {"modes": len(data.centers), "deviation": data.deviation, "samples": count}
    against = "true points"
    told = "eval/modes", "eval/mode_deviation", "eval/mode_kl"
    return Evaluation(headline, scores, baselines, drawn, against, protocol, told)


def in_parts(
    generate: Any, average: Variables, z: jax.Array, labels: jax.Array | None
) -> np.ndarray:
    """Images, uint8 [n, H, W, C], of latents [n, Z], few at once."""
    found = []
    for start in range(0, len(z), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found.append(to_bytes(generate(average, z[part], None if labels is None else labels[part])))
    return np.concatenate(found)
