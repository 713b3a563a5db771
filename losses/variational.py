"""Bounds on the likelihood of latent-variable models with normal posteriors, in nats.

Shapes: B images, Z latents, K samples of an image's latents.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Normal(NamedTuple):
    """A normal of independent latents, q(z | x)."""

    mean: jax.Array  # [B, Z]
    log_variance: jax.Array  # [B, Z]

    def at(self, noise: jax.Array) -> jax.Array:
        """Latents [K, B, Z] for draws [K, B, Z] of a standard normal."""
        return self.mean[None] + jnp.exp(0.5 * self.log_variance)[None] * noise


def kl(q: Normal) -> jax.Array:
    """KL(q || N(0, 1)) of each latent, [B, Z] (Kingma and Welling 2013, appendix B)."""
    chex.assert_equal_shape(q)
    return 0.5 * (jnp.square(q.mean) + jnp.exp(q.log_variance) - 1 - q.log_variance)


def log_ratio(q: Normal, z: jax.Array) -> jax.Array:
    """log p(z) - log q(z | x), [K, B], of latents [K, B, Z], with p(z) a standard normal."""
    chex.assert_equal_shape_suffix([q.mean, z], 2)
    deviations = jnp.square(z - q.mean[None]) * jnp.exp(-q.log_variance)[None]
    return 0.5 * jnp.sum(deviations + q.log_variance[None] - jnp.square(z), axis=-1)


def importance_bound(log_weights: jax.Array) -> jax.Array:
    """log (1 / K) sum_k w_k, [B], of log w [K, B] (Burda et al. 2016, equation 8).

    In expectation it is at most log p(x), and grows with K. For K = 1 it is the log weight.
    """
    chex.assert_rank(log_weights, 2)
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])
