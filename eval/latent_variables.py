"""How well a latent-variable model knows images: bounds on their likelihood, active latents.

Shapes: B images, H, W, C of an image, Z latents, K samples of an image's latents.
"""

import functools
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.images import ImageSet
from missing_bits.eval import densities, subsets
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.losses import likelihoods, variational
from missing_bits.losses.variational import Normal
from missing_bits.numeric import ceil_div
from missing_bits.pictures import images as pictures_of_images

_ACTIVE = 0.01  # variance over images above which a latent's mean counts as active
_AT_ONCE = 100  # images
_DECODED_AT_ONCE = 1_000  # images
_DRAWN = 16
_PATHS = 8  # from one test image to another
_STEPS = 10  # of a path


class Model(Protocol):
    """Networks with latents; nothing here depends on a number of a row."""

    latent: int
    """Z."""

    def posterior(self, learned: Any, x: jax.Array, labels: jax.Array | None) -> Normal:
        """q(z | x) of images [B, H, W, C]."""

    def log_likelihood(
        self, learned: Any, x: jax.Array, z: jax.Array, labels: jax.Array | None
    ) -> jax.Array:
        """log p(x | z), [K, B], of latents [K, B, Z]."""

    def generate(self, learned: Any, z: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Images [B, H, W, C] of latents [B, Z]."""


class Judging(NamedTuple):
    """How bounds are computed."""

    images: int
    """Test images, at most, evenly spaced."""
    samples: int
    """K, of each image's latents, for the bound at the end of a run."""


class Terms(NamedTuple):
    """Of an image each."""

    elbo: jax.Array  # [B], nats
    kl: jax.Array  # [B], nats
    mean: jax.Array  # [B, Z], of the posterior


def evaluation(
    data: ImageSet,
    model: Model,
    how: Judging,
    output: str,
    conditional: bool,
) -> Evaluation:
    """Scores, baselines and pictures of a model.

    The noise in all bounds is drawn from a fixed key, which training never has: figures differ from
    run to run by what was learned alone. "eval/bits_per_dimension" are of the ELBO,
    "eval/tight_bits_per_dimension", at a run's last, of the bound of many samples.

    Args:
      data: images, whose labels are used where the model is conditional.
      model: the networks.
      how: bounds are computed.
      output: the distribution of images: "bernoulli", "logistic" or "gaussian".
      conditional: whether latents go with labels.
    """
    count = len(subsets.chosen(data.test, how.images))

    def labels_of(some: slice) -> jax.Array | None:
        if not conditional:
            return None
        return jnp.asarray(data.test.labels[subsets.chosen(data.test, how.images)[some]])

    def bits(nats: np.ndarray) -> float:
        return likelihoods.bits_per_dimension(-float(nats.mean()), data.shape)

    @jax.jit
    def terms(learned: Any, x: jax.Array, labels: jax.Array | None, key: jax.Array) -> Terms:
        q = model.posterior(learned, x, labels)
        noise = jax.random.normal(key, (1, *q.mean.shape))
        kl = jnp.sum(variational.kl(q), axis=1)
        log_p = model.log_likelihood(learned, x, q.at(noise), labels)[0]
        return Terms(log_p - kl, kl, q.mean)

    bound = jax.jit(functools.partial(importance_bound, model), static_argnums=4)

    def scores(learned: Any, key: jax.Array, last: bool) -> dict[str, float]:
        keys = jax.random.split(jax.random.key(0), ceil_div(count, _AT_ONCE))
        found = []
        bounds = []
        for (some, x), key in zip(
            subsets.batches(data.test, how.images, _AT_ONCE), keys, strict=True
        ):
            labels = labels_of(some)
            found.append(jax.device_get(terms(learned, x, labels, key)))
            if last:
                bounds.append(np.asarray(bound(learned, x, labels, key, how.samples)))
        elbo, kl, means = (np.concatenate(parts) for parts in zip(*found, strict=True))
        active = int((means.var(axis=0) > _ACTIVE).sum())
        if not active:
            warnings.warn(
                "The posterior has collapsed: no latent depends on the image. Try a smaller "
                "--beta, --free-bits, or a longer run.",
                stacklevel=2,
            )
        figures = {
            "eval/elbo": float(elbo.mean()),
            "eval/kl": float(kl.mean()),
            "eval/reconstruction": float((elbo + kl).mean()),
            "eval/active_units": float(active),
        }
        if output == "logistic":
            # Of the same bound at every evaluation: the tighter one of the last would be a leap.
            figures["eval/bits_per_dimension"] = bits(elbo)
        if last:
            tight = np.concatenate(bounds)
            figures["eval/log_likelihood"] = float(tight.mean())
            if output == "logistic":
                figures["eval/tight_bits_per_dimension"] = bits(tight)
        return figures

    @functools.cache
    def simple() -> dict[str, float]:
        """The same for every seed."""
        if output == "bernoulli" and not conditional:
            nats = densities.mixture_log_likelihood(data.train, data.test, how.images)
            return {"baseline/mixture_log_likelihood": nats}
        if output == "logistic":
            bits = densities.separate_pixels(data.train, data.test, how.images)
            return {"baseline/separate_pixels_bits_per_dimension": bits}
        return {}

    def baselines(key: jax.Array) -> dict[str, float]:
        return simple()

    generate = jax.jit(model.generate)
    posterior = jax.jit(model.posterior)

    def pictures(learned: Any, seed: int, folder: Path) -> None:
        """Reconstructions, and paths between test images."""
        shown = subsets.chosen(data.test, _DRAWN)
        labels = jnp.asarray(data.test.labels[shown]) if conditional else None
        x = subsets.read(data.test, shown)
        means = posterior(learned, x, labels).mean
        back = generate(learned, means, labels)
        title = "Images, and what the means of their latents give"
        pictures_of_images.cards([x, back], 4, title, folder / "reconstructions.png")
        pairs = min(_PATHS, len(means) // 2)
        share = jnp.linspace(0, 1, _STEPS)[None, :, None]
        start = means[:pairs, None]
        path = start + share * (means[pairs : 2 * pairs, None] - start)  # [pairs, _STEPS, Z]
        along = None if labels is None else jnp.repeat(labels[:pairs], _STEPS)
        between = np.asarray(generate(learned, path.reshape(-1, model.latent), along))
        title = "From one test image to another, straight between their latents"
        pictures_of_images.grid(between, _STEPS, title, folder / "interpolations.png")

    against = {
        "bernoulli": f"a Bernoulli mixture of {densities.COMPONENTS} components",
        "logistic": "histograms of separate pixels",
    }
    protocol = {
        "output": output,
        "conditional": conditional,
        "images": count,
        "samples": how.samples,
        "data": data.digest,
    }
    return Evaluation(
        Headline("eval/elbo"),
        scores,
        baselines,
        pictures,
        "" if conditional and output == "bernoulli" else against.get(output, ""),
        protocol,
    )


def importance_bound(
    model: Model,
    learned: Any,
    x: jax.Array,
    labels: jax.Array | None,
    key: jax.Array,
    samples: int,
) -> jax.Array:
    """The importance-weighted bound on log p(x), [B], of K samples (Burda et al. 2016, equation 8).

    They are drawn and decoded few at once, in memory that does not depend on K.

    Args:
      model: the networks.
      learned: its parameters.
      x: [B, H, W, C].
      labels: int [B], or None.
      key: of the noise.
      samples: K.
    """
    q = model.posterior(learned, x, labels)
    at_once = min(samples, max(1, _DECODED_AT_ONCE // x.shape[0]))
    rounds = ceil_div(samples, at_once)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        drawn = jax.random.normal(jax.random.fold_in(key, number), (at_once, *q.mean.shape))
        z = q.at(drawn)
        log_weights = model.log_likelihood(learned, x, z, labels) + variational.log_ratio(q, z)
        counts = number * at_once + jnp.arange(at_once) < samples  # the last round may have fewer
        log_weights = jnp.where(counts[:, None], log_weights, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_weights, axis=0)), None

    start = jnp.full(x.shape[:1], -jnp.inf)
    total, _ = jax.lax.scan(add, start, jnp.arange(rounds))
    return total - jnp.log(float(samples))
