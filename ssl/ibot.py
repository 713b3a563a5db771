"""iBOT: a student that sees part of an image guesses what its own average makes of the whole.

Zhou et al. 2021 (arXiv 2111.07832). On photos it has not been measured; five minutes on one core
with --data=fashion_mnist: kNN 71 %, random encoder 69 % (docs/results/).

    python run.py --exp=ibot

Student and teacher are a vision transformer and a head that distributes every token over
prototypes; the teacher is a moving average of the student. Of two views of an image the student
sees each with a block of patches masked, the teacher whole. With p the student's distributions and
q the teacher's, the loss is the mean over the views u, where v is the other one and m_i tells
whether patch i is masked (equations 2 and 3), of

    -q_class(v) . log p_class(u) - w sum_i m_i q_i(u) . log p_i(u) / max(1, sum_i m_i)

Against collapse, the teacher's logits are centered by their moving average and sharpened by a low
temperature. What is handed over is the teacher. Deviations from the paper: no local crops; a mask
is one rectangle; constant weight decay; no stochastic depth; the last layer trains from the start,
with weights of length 1; the gradient is clipped as a whole; positions of patches are fixed; the
warm-up of the teacher's temperature is a share of the budget.
Shapes: B images in a batch (on one device), N = 2 B views, first all a, then all b, H, W, C of an
image, L patches, D width of a token, K prototypes.
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
from missing_bits.augment import masking, views
from missing_bits.augment.patches import Patches
from missing_bits.augment.views import Views
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import Images
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import Encoder, ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.evaluation import Evaluation
from missing_bits.eval.probes import Probes, Probing
from missing_bits.metrics import Metrics, where
from missing_bits.nets import transformer, vision
from missing_bits.options import Flat, row
from missing_bits.pictures import images as pictures_of_images
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """iBOT. Periods and budgets count updates."""

    images: Flat[Images] = Images()
    encoder: Flat[Encoder] = Encoder(network="vit_micro")
    probing: Flat[Probing] = Probing()
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 64
    """Images per update, each seen in two views, over all devices."""
    prototypes: int = 512
    """Prototypes over which class token and patches are distributed: K."""
    head_hidden: int = 256
    """Width of the head's two hidden layers."""
    head_bottleneck: int = 64
    """Width of what the head compares with the prototypes."""
    mask_probability: float = row(0.5)
    """Probability that a view is masked at all, 0 to 1."""
    mask_low: float = 0.1
    """Least share of a masked view's patches that is masked, above 0."""
    mask_high: float = 0.5
    """Largest share, at most 1; one patch stays visible."""
    patch_weight: float = row(1.0)
    """Weight of the loss of masked patches beside that of class tokens: w; 0 leaves it out."""
    student_temperature: float = row(0.1)
    """What the student's logits, cosines in [-1, 1], are divided by."""
    teacher_temperature: tuple[float, float] = row((0.04, 0.07))
    """What the teacher's centered logits are divided by, at first and at last."""
    teacher_warmup: float = 0.3
    """Share of the budget over which the teacher's temperature changes, 0 to 1; the first update
    has the first."""
    momentum: float = row(0.996)
    """The teacher's share of itself in its moving average, 0 to 1; rises to 1 as a cosine over the
    budget."""
    center_momentum: float = row(0.9)
    """The centers' share of themselves in their moving averages, 0 to 1; 1 leaves them at 0."""
    clip: float = row(3.0)
    """Largest length of the gradient; longer ones are scaled down to it."""
    views: Views = Views(crop_scale=(0.25, 1.0))
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=1e-3, warmup=0.1, weight_decay=0.04
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "views": {"crop_scale": (0.6, 1.0), "flip": 0.0, "jitter": 0.0, "solarize": (0.0, 0.0)}
    },
    "fashion_mnist": {
        "probe_images": 10_000,
        "updates": 600,
        "patch": 7,
        "views": {"crop_scale": (0.2, 1.0)},
    },
    # 200 epochs with the step size that the paper has for this batch.
    "cifar10": {
        "network": "vit_tiny",
        "updates": 39_063,
        "batch_size": 256,
        "prototypes": 2048,
        "optimizer": {"learning_rate": 5e-4},
    },
    # The paper's recipe, 800 epochs, step size 5e-4 times batch / 256; crops as its code has them
    # without local ones.
    "imagenet": {
        "network": "vit_small",
        "updates": 1_000_912,
        "batch_size": 1024,
        "prototypes": 8192,
        "head_hidden": 2048,
        "head_bottleneck": 256,
        "teacher_warmup": 0.0375,
        "views": {"crop_scale": (0.14, 1.0), "blur": (1.0, 0.1)},
        "optimizer": {"learning_rate": 2e-3, "warmup": 0.0125, "end": 0.0005},
    },
}
TINY = {
    "data": "digits",
    "network": "vit_nano",
    "updates": 12,
    "batch_size": 16,
    "prototypes": 16,
    "head_hidden": 16,
    "head_bottleneck": 8,
    "probe_images": 100,
}


class Networks(NamedTuple):
    """Parameters of an encoder and of the head on it."""

    encoder: Any
    head: Any


class Student(NamedTuple):
    """Parameters that learn."""

    networks: Networks
    mask_token: jax.Array  # [D]


class State(NamedTuple):
    """Everything a run knows."""

    params: Student
    teacher: Networks
    centers: jax.Array  # [2, K], of the teacher's logits: of class tokens, of patches
    opt_state: optax.OptState
    updates: jax.Array  # int32, made so far


class Terms(NamedTuple):
    """The two losses, each a mean over views."""

    of_class: jax.Array
    of_patches: jax.Array


class Seen(NamedTuple):
    """What networks make of images."""

    logits: jax.Array  # [N, 1 + L, K]
    tokens: jax.Array  # [N, 1 + L, D]


class Resources(NamedTuple):
    """What rows share."""

    data: ImageSet
    encoder: ImageEncoder
    patches: Patches
    start: Variables | None
    evaluation: Evaluation  # of an encoder's variables


def head(x: jax.Array, hidden: int, bottleneck: int, prototypes: int) -> jax.Array:
    """Cosines [..., K] of tokens [..., D], after an MLP of three layers, with the prototypes."""

    def unit(x: jax.Array, axis: int) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis, keepdims=True) + 1e-12)

    for _ in range(2):
        x = jax.nn.gelu(hk.Linear(hidden, w_init=transformer.GLOROT)(x))
    x = hk.Linear(bottleneck, w_init=transformer.GLOROT)(x)
    init = hk.initializers.RandomNormal(bottleneck**-0.5)
    weights = hk.get_parameter("prototypes", (bottleneck, prototypes), init=init)
    return unit(x, -1) @ unit(weights, 0)


def distributions(
    logits: jax.Array, centers: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """The teacher's distributions [N, 1 + L, K] (section 3.1).

    Args:
      logits: [N, 1 + L, K], the teacher's.
      centers: [2, K].
      temperature: the teacher's.
    """
    chex.assert_shape(centers, (2, logits.shape[2]))
    # The class token has the first center, patches have the second.
    of_token = np.minimum(np.arange(logits.shape[1]), 1)
    return jax.nn.softmax((logits - centers[of_token][None]) / temperature)


def moved_centers(centers: jax.Array, logits: jax.Array, momentum: jax.Array | float) -> jax.Array:
    """The centers [2, K] after they took in the teacher's logits [N, 1 + L, K] of all devices."""
    means = jnp.stack([jnp.mean(logits[:, 0], axis=0), jnp.mean(logits[:, 1:], axis=(0, 1))])
    return optax.incremental_update(collectives.mean(means), centers, 1 - momentum)


def objective(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, temperature: jax.Array | float
) -> Terms:
    """The loss of class tokens and that of masked patches, means over the views of this device.

    Args:
      logits: [N, 1 + L, K], the student's.
      targets: [N, 1 + L, K], the teacher's distributions, which get no gradient.
      mask: bool [N, L], which patches the student did not see; a view without any counts as 0.
      temperature: the student's.
    """
    chex.assert_equal_shape([logits, targets])
    chex.assert_shape(mask, (logits.shape[0], logits.shape[1] - 1))
    log_p = jax.nn.log_softmax(logits / temperature)
    targets = jax.lax.stop_gradient(targets)
    other = jnp.roll(targets[:, 0], len(targets) // 2, axis=0)  # of the other view, [N, K]
    of_class = -jnp.mean(jnp.sum(other * log_p[:, 0], axis=-1))
    of_patches = -jnp.sum(targets[:, 1:] * log_p[:, 1:], axis=-1)  # [N, L]
    masked = jnp.maximum(jnp.sum(mask, axis=1), 1)
    of_views = jnp.sum(jnp.where(mask, of_patches, 0), axis=1) / masked
    return Terms(of_class, jnp.mean(of_views))


class IBOT:
    """The method, as functions on `State`."""

    subject = "data"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        config.encoder.check_patches()
        require_positive(config, "updates", "batch_size")
        require_positive(config, "prototypes", "head_hidden", "head_bottleneck")
        require_positive(config, "student_temperature", "teacher_temperature", "mask_low", "clip")
        require_between(config, 0, 1, "momentum", "center_momentum", "teacher_warmup")
        require_between(config, 0, 1, "mask_probability", "mask_high")
        require_between(config, 0, float("inf"), "patch_weight")
        low = config.mask_low
        high = config.mask_high
        require(
            low <= high,
            f"--mask-low is {low} and --mask-high {high}; give the smaller share as --mask-low.",
        )

    @staticmethod
    def resources(config: Config) -> Resources:
        """Images, the encoder, and its probes."""
        data = config.images.load()
        encoder = config.encoder.make(data)
        start = files.start(encoder, config.encoder.init_from)
        patches = Patches.cut(data.shape, vision.patch_side(data.shape, config.encoder.patch))
        require(
            patches.count > 1,
            f"--data={config.images.data} has images of one patch; masks need at least two "
            "patches.",
        )
        probes = Probes(data, encoder, config.probing.probe_images)
        return Resources(data, encoder, patches, start, probes.evaluation())

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        self.plan = Plan(config.updates, shown=("eval/linear_accuracy", "train/loss"))
        self.evaluation = resources.evaluation.drawing(self.pictures)
        self.data_digest = resources.data.digest
        self.encoder = resources.encoder
        self.patches = resources.patches
        self.views = (config.views.first, config.views.second)
        sizes = (config.head_hidden, config.head_bottleneck, config.prototypes)
        self.head = hk.without_apply_rng(hk.transform(lambda tokens: head(tokens, *sizes)))
        clip = optax.clip_by_global_norm(config.clip)
        self.optimizer = optax.chain(clip, optimizers.make(config.optimizer, config.updates))

    def source(self, seeds: Sequence[int]) -> BatchSource:
        """Batches of training images."""
        images = self.resources.data.train._replace(labels=None)
        return BatchSource(images, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update: the teacher starts as the student."""
        encoder_key, head_key, token_key = jax.random.split(key, 3)
        encoder = self.resources.start or self.encoder.init(encoder_key)
        width = self.encoder.num_features // 2  # features are two tokens
        mask_token = 0.02 * jax.random.normal(token_key, (width,))
        teacher = Networks(encoder.params, self.head.init(head_key, mask_token))
        params = Student(jax.tree.map(jnp.copy, teacher), mask_token)
        centers = jnp.zeros((2, self.config.prototypes))
        return State(params, teacher, centers, self.optimizer.init(params), jnp.int32(0))

    def temperature(self, update: jax.Array | int) -> jax.Array:
        """The teacher's temperature at an update, numbered from 0."""
        first, last = self.config.teacher_temperature
        warmup = max(1, self.config.teacher_warmup * (self.plan.budget - 1))
        share = jnp.minimum(update / warmup, 1)
        return (1 - share) * first + share * last

    def momentum(self, update: jax.Array | int) -> jax.Array:
        """The teacher's momentum at an update, numbered from 0; 1 when the budget is spent."""
        left = (1 + jnp.cos(jnp.pi * update / self.plan.budget)) / 2
        return 1 - (1 - self.config.momentum) * left

    def mask(self, key: jax.Array) -> jax.Array:
        """Which patches [L] of one view are masked: with `mask_probability` a block, else none."""
        whether, where = jax.random.split(key)
        rows = self.patches.rows
        columns = self.patches.columns
        block = masking.block(where, rows, columns, self.config.mask_low, self.config.mask_high)
        return block & jax.random.bernoulli(whether, self.config.mask_probability)

    def draw(self, keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both views [N, H, W, C] of images and their masks [N, L], for keys [B]."""
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)  # [B, 3]
        x = jnp.concatenate(views.draw(keys[:, 0], images, self.views))
        mask_keys = jnp.concatenate([keys[:, 1], keys[:, 2]])
        return x, jax.vmap(self.mask)(mask_keys)

    def see(
        self,
        networks: Networks,
        x: jax.Array,
        mask: jax.Array | None = None,
        mask_token: jax.Array | None = None,
    ) -> Seen:
        """What networks make of images [N, H, W, C] in [0, 1].

        Args:
          networks: their parameters.
          x: images.
          mask: bool [N, L], the patches in whose place the mask token stands.
          mask_token: [D].
        """
        encoder = Variables(networks.encoder, {})
        tokens = self.encoder.tokens(encoder, x, mask=mask, mask_token=mask_token)
        return Seen(self.head.apply(networks.head, tokens), tokens)

    def loss(
        self, params: Student, x: jax.Array, mask: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, Terms]:
        """The student's loss on views under masks, and its two terms."""
        logits = self.see(params.networks, x, mask, params.mask_token).logits
        terms = objective(logits, targets, mask, self.config.student_temperature)
        return terms.of_class + self.config.patch_weight * terms.of_patches, terms

    def step(self, state: State, batch: Split, key: jax.Array) -> tuple[State, Metrics]:
        """Draws views and masks of every image; moves the student, then teacher and centers."""
        keys = collectives.shard(jax.random.split(key, self.config.batch_size))
        x, mask = self.draw(keys, batch.images)
        whole = self.see(state.teacher, x)
        targets = distributions(whole.logits, state.centers, self.temperature(state.updates))
        descent = optimizers.descend(
            self.loss, self.optimizer, state.params, state.opt_state, x, mask, targets
        )
        teacher = optax.incremental_update(
            descent.params.networks, state.teacher, 1 - self.momentum(state.updates)
        )
        centers = moved_centers(state.centers, whole.logits, self.config.center_momentum)
        terms = collectives.mean(descent.aux)
        entropy = jnp.mean(jnp.sum(jax.scipy.special.entr(targets[:, 0]), axis=-1))
        metrics = {
            "train/loss": descent.loss,
            "train/class_loss": terms.of_class,
            "train/patch_loss": where(collectives.total(jnp.sum(mask)) > 0, terms.of_patches),
            "train/gradient_norm": descent.gradient_norm,
            "train/teacher_entropy": collectives.mean(entropy),
            "train/feature_deviation": collapse.feature_deviation(vision.summary(whole.tokens)),
        }
        updates = state.updates + 1
        return State(descent.params, teacher, centers, descent.opt_state, updates), metrics

    def learned(self, state: State) -> Variables:
        """The teacher's encoder."""
        return Variables(state.teacher.encoder, {})

    def hand_over(self, learned: Variables, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the encoder, without its head."""
        files.save(path, self.encoder, learned, facts)

    def pictures(self, learned: Variables, seed: int, folder: Path) -> None:
        """Draws pairs of a view under its mask and the other view whole."""
        test = self.resources.data.test.images
        shown = np.random.default_rng(seed).permutation(test.shape[0])[:16]
        images = test[shown]
        keys = jax.random.split(jax.random.key(seed), len(images))
        x, mask = jax.jit(self.draw)(keys, images)
        seen = jnp.where(mask[:, :, None], 0.5, self.patches.of(x))
        masked = self.patches.images(seen)
        path = folder / "views.png"
        pictures_of_images.pairs(masked[: len(images)], x[len(images) :], path)
