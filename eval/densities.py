"""Simple densities of images, to compare likelihoods with: a Bernoulli mixture, separate pixels.

Shapes: N images, D numbers in each, M components of a mixture.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.data.images import Split
from missing_bits.eval import subsets

COMPONENTS = 50
_ITERATIONS = 100
_PRIOR = 0.1  # images that are added, for each component and pixel, in black and in white
_MOST = 1 << 26  # numbers of the training images that a mixture is fitted to: 0.25 GB
_HIGHEST = jax.lax.Precision.HIGHEST


class Mixture(NamedTuple):
    """A mixture of images of independent pixels, each white with a probability."""

    log_weights: jax.Array  # [M]
    logits: jax.Array  # [M, D], of the probabilities

    def log_joint(self, x: jax.Array) -> jax.Array:
        """log p(x, component), [N, M], of images [N, D] of zeros and ones."""
        black = -jnp.sum(jax.nn.softplus(self.logits), axis=1)  # [M]
        white = jnp.matmul(x, self.logits.T, precision=_HIGHEST)  # [N, M]
        return white + (black + self.log_weights)[None]

    def log_likelihood(self, x: jax.Array) -> jax.Array:
        """log p(x), [N], in nats."""
        return jax.nn.logsumexp(self.log_joint(x), axis=1)


@functools.partial(jax.jit, static_argnames=("components", "iterations"))
def fit(x: jax.Array, components: int, iterations: int = _ITERATIONS) -> Mixture:
    """A mixture by expectation maximization (Dempster et al. 1977; Bishop 2006, section 9.3.3).

    It starts from images that are drawn, each blended with the mean of all.

    Args:
      x: [N, D] of zeros and ones.
      components: M.
      iterations: each an expectation and a maximization.
    """
    chex.assert_rank(x, 2)
    count = x.shape[0]
    first = jax.random.choice(jax.random.key(0), x, (components,))
    mean = jnp.mean(x, axis=0, keepdims=True)
    start = jnp.clip(0.3 * first + 0.7 * mean, 0.01, 0.99)

    def better(_: int, mixture: Mixture) -> Mixture:
        shares = jax.nn.softmax(mixture.log_joint(x), axis=1)  # [N, M]
        sizes = jnp.sum(shares, axis=0)  # [M]
        white = jnp.matmul(shares.T, x, precision=_HIGHEST)  # [M, D]
        probability = (white + _PRIOR) / (sizes + 2 * _PRIOR)[:, None]
        log_weights = jnp.log((sizes + _PRIOR) / (count + components * _PRIOR))
        return Mixture(log_weights, jax.scipy.special.logit(probability))

    even = jnp.full(components, -jnp.log(components))
    return jax.lax.fori_loop(0, iterations, better, Mixture(even, jax.scipy.special.logit(start)))


def mixture_log_likelihood(train: Split, test: Split, most: int) -> float:
    """The mean log p(x) of test images under a mixture of training images, in nats per image.

    Args:
      train: images of 0 and 255; of very many, some.
      test: likewise.
      most: test images, at most, evenly spaced.
    """
    numbers = int(np.prod(train.images.shape[1:]))
    x = _bits(train, max(COMPONENTS, _MOST // numbers))
    mixture = fit(x, min(COMPONENTS, len(x)))
    return float(jnp.mean(mixture.log_likelihood(_bits(test, most))))


def _bits(split: Split, most: int) -> jax.Array:
    """At most so many images, float32 [N, D] of zeros and ones."""
    images = split.images[subsets.chosen(split, most)]
    return jnp.asarray(images.reshape(len(images), -1) > 127, jnp.float32)


def separate_pixels(train: Split, test: Split, most: int) -> float:
    """The mean -log2 P of a number of test images under training images' histograms, in bits.

    Each number of an image has a histogram of its own of the 256 values, to which half an image of
    each value is added (Krichevsky and Trofimov 1981).

    Args:
      train: bytes; of more than 60,000 images, as many.
      test: likewise.
      most: test images, at most, evenly spaced.
    """
    seen = train.images[subsets.chosen(train, 60_000)]
    seen = seen.reshape(len(seen), -1)
    x = test.images[subsets.chosen(test, most)]
    x = x.reshape(len(x), -1)
    nats = 0.0
    for number, column in enumerate(seen.T):
        counts = np.bincount(column, minlength=256) + 0.5
        nats -= np.log(counts / counts.sum())[x[:, number]].sum()
    return float(nats / np.log(2) / x.size)
