"""iBOT: a student that sees part of an image guesses what its own moving average makes of the whole (Zhou et al. 2021).

    python run.py --exp=ibot

Student and teacher are a vision transformer and a head that distributes every token over prototypes. Of two views of
an image the student sees each with a block of patches masked, the teacher whole. With p the student's distributions,
q the teacher's, the loss is the mean over the views u, where v is the other one and m_i tells whether patch i is masked
(equations 2 and 3; arXiv 2111.07832), of

    -q_class(v) . log p_class(u) - sum_i m_i q_i(u) . log p_i(u) / max(1, sum_i m_i)

Against collapse, the teacher's logits are centerd by their moving average and sharpened by a low temperature. What is
handed over is the teacher. Deviations: no local crops; a mask is one rectangle; constant weight decay; no stochastic
depth; the last layer trains from the start, with weights of length 1; the gradient is clipped as a whole; positions of
patches are fixed; the warm-up of the teacher's temperature is a share of the budget.
Shapes: B images in a batch (on one device), N = 2 B views, first all a, then all b, H, W, C of an image, L patches, D
width of a token, K prototypes.
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
from missing_bits.augment import masking, views
from missing_bits.augment.views import Views
from missing_bits.data.images import Split
from missing_bits.data.load import load
from missing_bits.data.source import BatchSource
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require, require_between, require_positive
from missing_bits.eval import collapse
from missing_bits.eval.probes import Probes
from missing_bits.nets import transformer, vision
from missing_bits.pictures import images as images_pictures


@dataclass(frozen=True)
class Config:
    """iBOT. Periods and budgets count updates."""

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
    batch_size: int = 64
    """Images per update, each seen in two views, over all devices."""
    network: Literal["vit_micro", "vit_tiny", "vit_small"] = "vit_micro"
    """Encoder."""
    patch: int = 0
    """Side of a patch, in pixels; 0 for 4, or 16 where images have at least 64."""
    bfloat16: bool = False
    """Compute the encoder in bfloat16; parameters and the head stay float32."""
    prototypes: int = 512
    """Prototypes over which class token and patches are distributed: K."""
    head_hidden: int = 256
    """Width of the head's two hidden layers."""
    head_bottleneck: int = 64
    """Width of what the head compares with the prototypes."""
    mask_probability: float = 0.5
    """Probability that a view is masked at all, 0 to 1."""
    mask_low: float = 0.1
    """Least share of a masked view's patches that is masked, above 0."""
    mask_high: float = 0.5
    """Largest share, at most 1; one patch stays visible."""
    student_temperature: float = 0.1
    """What the student's logits, cosines in [-1, 1], are divided by."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """What the teacher's centerd logits are divided by, at first and at last."""
    teacher_warmup: float = 0.3
    """Share of the budget over which the teacher's temperature changes, 0 to 1; the first update has the first."""
    momentum: float = 0.996
    """The teacher's share of itself in its moving average, 0 to 1; rises to 1 as a cosine over the budget."""
    center_momentum: float = 0.9
    """The centers' share of themselves in their moving averages, 0 to 1; 1 leaves them at 0."""
    clip: float = 3.0
    """Largest length of the gradient; longer ones are scaled down to it."""
    views: Views = Views(crop_scale=(0.25, 1.0))
    """How images are distorted."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(
        learning_rate=1e-3, warmup=0.1, weight_decay=0.04
    )
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"views": {"crop_scale": (0.6, 1.0), "flip": 0.0, "jitter": 0.0, "solarize": (0.0, 0.0)}},
    "fashion_mnist": {"probe_images": 10_000, "updates": 600, "patch": 7, "views": {"crop_scale": (0.2, 1.0)}},
    # 200 epochs with the step size that the paper has for this batch.
    "cifar10": {"network": "vit_tiny", "updates": 39_063, "batch_size": 256, "prototypes": 2048,
                "optimizer": {"learning_rate": 5e-4}},
    # The paper's recipe, 800 epochs, step size 5e-4 times batch / 256; crops as its code has them without local ones.
    "imagenet": {"network": "vit_small", "updates": 1_000_912, "batch_size": 1024, "prototypes": 8192,
                 "head_hidden": 2048, "head_bottleneck": 256, "teacher_warmup": 0.0375,
                 "views": {"crop_scale": (0.14, 1.0), "blur": (1.0, 0.1)},
                 "optimizer": {"learning_rate": 2e-3, "warmup": 0.0125, "end": 0.0005}},
}  # fmt: skip


class State(NamedTuple):
    """Everything a run knows."""

    params: dict[str, Any]  # of the student: "encoder", "head" and the "mask_token" [D]
    teacher: dict[str, Any]  # "encoder" and "head"
    centers: jax.Array  # [2, K], of the teacher's logits: of class tokens, of patches
    opt_state: optax.OptState
    updates: jax.Array  # int32, made so far


def head(x: jax.Array, hidden: int, bottleneck: int, prototypes: int) -> jax.Array:
    """Cosines [..., K] of tokens [..., D], after an MLP of three layers, with the prototypes."""

    def unit(x: jax.Array, axis: int) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis, keepdims=True) + 1e-12)

    for _ in range(2):
        x = jax.nn.gelu(hk.Linear(hidden, w_init=transformer.GLOROT)(x))
    x = hk.Linear(bottleneck, w_init=transformer.GLOROT)(x)
    init = hk.initializers.RandomNormal(bottleneck**-0.5)
    return unit(x, -1) @ unit(
        hk.get_parameter("prototypes", (bottleneck, prototypes), init=init), 0
    )


def distributions(
    logits: jax.Array, centers: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """The teacher's distributions [N, 1 + L, K] from its logits and the centers [2, K] (section 3.1)."""
    chex.assert_shape(centers, (2, logits.shape[2]))
    of_token = np.minimum(
        np.arange(logits.shape[1]), 1
    )  # the class token has the first center, patches the second
    return jax.nn.softmax((logits - centers[of_token][None]) / temperature)


def moved_centers(centers: jax.Array, logits: jax.Array, momentum: float) -> jax.Array:
    """The centers [2, K] after they took in the teacher's logits [N, 1 + L, K] of all devices."""
    means = jnp.stack([jnp.mean(logits[:, 0], axis=0), jnp.mean(logits[:, 1:], axis=(0, 1))])
    return optax.incremental_update(collectives.mean(means), centers, 1 - momentum)


def objective(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, temperature: float
) -> tuple[jax.Array, ...]:
    """The loss of class tokens and that of masked patches, each a mean over the views of this device.

    Args:
      logits: [N, 1 + L, K], the student's.
      targets: [N, 1 + L, K], the teacher's distributions, which get no gradient.
      mask: bool [N, L], which patches the student did not see; a view without any counts as 0.
      temperature: the student's.
    """
    chex.assert_equal_shape([logits, targets])
    chex.assert_shape(mask, (logits.shape[0], logits.shape[1] - 1))
    log_p, targets = jax.nn.log_softmax(logits / temperature), jax.lax.stop_gradient(targets)
    other = jnp.roll(targets[:, 0], len(targets) // 2, axis=0)  # of the other view, [N, K]
    of_patches = -jnp.sum(targets[:, 1:] * log_p[:, 1:], axis=-1)  # [N, L]
    of_views = jnp.sum(jnp.where(mask, of_patches, 0), axis=1) / jnp.maximum(
        jnp.sum(mask, axis=1), 1
    )
    return -jnp.mean(jnp.sum(other * log_p[:, 0], axis=-1)), jnp.mean(of_views)


class IBOT:
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
        self.data_digest, (height, width, _) = self.data.digest, self.data.shape
        moments, computes = self.data.moments(), (config.bfloat16, config.patch)
        self.encoder = ImageEncoder(config.network, self.data.shape, *moments, *computes)
        self.side = vision.patch_side(self.data.shape, config.patch)
        self.grid = height // self.side, width // self.side
        require(
            max(self.grid) > 1,
            f"--data={config.data} has images of one patch; masks need at least two patches.",
        )
        sizes = config.head_hidden, config.head_bottleneck, config.prototypes
        self.head = hk.without_apply_rng(hk.transform(lambda tokens: head(tokens, *sizes)))
        optimizer = optimizers.make(config.optimizer, config.updates)
        self.optimizer = optax.chain(optax.clip_by_global_norm(config.clip), optimizer)
        self.probes = Probes(self.data, self.encoder, config.probe_images)
        self.headline, self.baselines = self.probes.headline, self.probes.baselines

    def source(self, seeds: Any) -> BatchSource:
        """Batches of training images."""
        return BatchSource(self.data.train._replace(labels=None), seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update: the teacher starts as the student."""
        encoder_key, head_key, token_key = jax.random.split(key, 3)
        mask_token = 0.02 * jax.random.normal(token_key, (self.encoder.num_features // 2,))
        teacher = {
            "encoder": self.encoder.init(encoder_key).params,
            "head": self.head.init(head_key, mask_token),
        }
        params = {**jax.tree.map(jnp.copy, teacher), "mask_token": mask_token}
        centers = jnp.zeros((2, self.config.prototypes))
        return State(params, teacher, centers, self.optimizer.init(params), jnp.int32(0))

    def temperature(self, update: jax.Array | int) -> jax.Array:
        """The teacher's temperature at an update, numbered from 0."""
        first, last = self.config.teacher_temperature
        share = jnp.minimum(update / max(1, self.config.teacher_warmup * (self.budget - 1)), 1)
        return (1 - share) * first + share * last

    def momentum(self, update: jax.Array | int) -> jax.Array:
        """The teacher's momentum at an update, numbered from 0; 1 when the budget is spent."""
        return 1 - (1 - self.config.momentum) * (1 + jnp.cos(jnp.pi * update / self.budget)) / 2

    def mask(self, key: jax.Array) -> jax.Array:
        """Which patches [L] of one view are masked: with `mask_probability` a block, else none."""
        whether, where = jax.random.split(key)
        block = masking.block(where, *self.grid, self.config.mask_low, self.config.mask_high)
        return block & jax.random.bernoulli(whether, self.config.mask_probability)

    def draw(self, keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both views [N, H, W, C] of images and their masks [N, L], for keys [B]."""
        view_keys, *mask_keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys).T
        x = jnp.concatenate(views.two_views(view_keys, images, self.config.views))
        return x, jax.vmap(self.mask)(jnp.concatenate(mask_keys))

    def logits(self, params: Any, x: jax.Array, **masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits [N, 1 + L, K] and tokens [N, 1 + L, D] of images [N, H, W, C] in [0, 1]."""
        tokens = self.encoder.tokens(Variables(params["encoder"], {}), x, **masks)
        return self.head.apply(params["head"], tokens), tokens

    def loss(
        self, params: Any, x: jax.Array, mask: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The student's loss on views under masks, and its two terms."""
        logits, _ = self.logits(params, x, mask=mask, mask_token=params["mask_token"])
        terms = objective(logits, targets, mask, self.config.student_temperature)
        return sum(terms), terms

    def step(
        self, state: State, batch: Split, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Draws two views and masks of every image; moves the student, then the teacher and its centers."""
        x, mask = self.draw(
            collectives.shard(jax.random.split(key, self.config.batch_size)), batch.images
        )
        logits, tokens = self.logits(state.teacher, x)
        targets = distributions(logits, state.centers, self.temperature(state.updates))
        found, grads = jax.value_and_grad(self.loss, has_aux=True)(state.params, x, mask, targets)
        entropy = jnp.mean(jnp.sum(jax.scipy.special.entr(targets[:, 0]), axis=-1))
        (loss, (class_loss, patch_loss)), grads, entropy = collectives.mean((found, grads, entropy))
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        student = {name: params[name] for name in state.teacher}
        teacher = optax.incremental_update(student, state.teacher, 1 - self.momentum(state.updates))
        centers = moved_centers(state.centers, logits, self.config.center_momentum)
        metrics = {
            "train/loss": loss,
            "train/class_loss": class_loss,
            "train/patch_loss": patch_loss,
        }
        metrics |= {"train/gradient_norm": optax.tree.norm(grads), "train/teacher_entropy": entropy}
        metrics["train/feature_deviation"] = collapse.feature_deviation(vision.summary(tokens))
        return State(params, teacher, centers, opt_state, state.updates + 1), metrics

    def learned(self, state: State) -> Variables:
        """The teacher's encoder."""
        return Variables(state.teacher["encoder"], {})

    def evaluate(self, learned: Variables, key: jax.Array) -> dict[str, float]:
        """Probes of the encoder."""
        return self.probes.scores(learned)

    def hand_over(self, learned: Variables, path: Path, facts: Any) -> None:
        """Writes the encoder, without its head."""
        files.save(path, self.encoder, learned, facts)

    def pictures(self, learned: Variables, seed: int, folder: Path) -> None:
        """Pairs of a view under its mask and the other view whole, and what the probes have to show."""
        test = self.data.test.images
        images = jnp.asarray(test[np.random.default_rng(seed).permutation(test.shape[0])[:16]])
        x, mask = self.draw(jax.random.split(jax.random.key(seed), len(images)), images)
        seen = jnp.where(mask[:, :, None], 0.5, masking.patchify(x, self.side))
        masked = masking.unpatchify(seen, *self.grid, x.shape[3])
        images_pictures.pairs(masked[: len(images)], x[len(images) :], folder / "views.png")
        self.probes.pictures(learned, folder)


def check(config: Config) -> None:
    """Raises `UserError` for settings that cannot run."""
    require_positive(
        config, "updates", "batch_size", "prototypes", "head_hidden", "head_bottleneck", "clip"
    )
    require_positive(config, "student_temperature", "teacher_temperature", "mask_low")
    require_between(
        config,
        0,
        1,
        "momentum",
        "center_momentum",
        "teacher_warmup",
        "mask_probability",
        "mask_high",
    )
    low, high = config.mask_low, config.mask_high
    require(
        low <= high,
        f"--mask-low is {low} and --mask-high {high}; give the smaller share as --mask-low.",
    )
    views.check(config.views)
