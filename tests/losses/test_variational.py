"""Bounds: the divergence against Monte Carlo, ratios against scipy, the order in K."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from missing_bits.losses import variational
from missing_bits.losses.variational import Normal

Q = Normal(jnp.array([[0.5, -1.0], [0.0, 2.0]]), jnp.array([[0.0, -1.0], [0.7, 0.3]]))


def test_the_divergence_is_zero_of_the_prior_alone():
    zeros = jnp.zeros((1, 3))
    np.testing.assert_array_equal(variational.kl(Normal(zeros, zeros)), zeros)
    assert (variational.kl(Q) > 0).all()


def test_the_divergence_equals_monte_carlo():
    """A mean of 200,000 draws errs by about 0.005."""
    noise = jax.random.normal(jax.random.key(0), (200_000, 2, 2))
    found = -jnp.mean(variational.log_ratio(Q, Q.at(noise)), axis=0)
    np.testing.assert_allclose(jnp.sum(variational.kl(Q), axis=1), found, atol=0.02)


def test_ratios_equal_scipys():
    z = Q.at(jax.random.normal(jax.random.key(1), (3, 2, 2)))
    prior = scipy.stats.norm.logpdf(z).sum(axis=-1)
    deviation = np.exp(0.5 * np.asarray(Q.log_variance))
    posterior = scipy.stats.norm.logpdf(z, np.asarray(Q.mean), deviation).sum(axis=-1)
    np.testing.assert_allclose(variational.log_ratio(Q, z), prior - posterior, atol=1e-4)


def test_the_bound_is_the_weight_for_one_sample_and_grows_with_more():
    """Of the same 64 weights in groups of K, which are nested: so it grows without exception."""
    log_weights = 3 * jax.random.normal(jax.random.key(2), (64, 5))
    np.testing.assert_allclose(
        variational.importance_bound(log_weights[:1]), log_weights[0], rtol=1e-6
    )

    def mean_bound(k):
        groups = log_weights.reshape(64 // k, k, 5)
        return np.mean(jax.vmap(variational.importance_bound)(groups), axis=0)

    bounds = [mean_bound(k) for k in (1, 2, 8, 64)]
    assert (np.diff(bounds, axis=0) > 0).all()
    np.testing.assert_allclose(bounds[0], log_weights.mean(axis=0), rtol=1e-4, atol=1e-4)
    exact = np.log(np.exp(np.asarray(log_weights, np.float64)).mean(axis=0))
    np.testing.assert_allclose(bounds[-1], exact, rtol=1e-4)
