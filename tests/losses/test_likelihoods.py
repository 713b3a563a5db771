"""Likelihoods by hand; what sums to one does; sums over pixels, never means."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from missing_bits.losses import likelihoods

ALL = {
    "bernoulli": (likelihoods.bernoulli, 1),
    "squared_error": (likelihoods.squared_error, 1),
    "gaussian": (likelihoods.gaussian, 2),
    "logistic": (likelihoods.logistic, 2),
}


def numbers(shape, count, seed=0):
    height, width, channels = shape[-3:]
    drawn = np.random.default_rng(seed).normal(size=(*shape[:-3], height, width, count * channels))
    return drawn.astype(np.float32)


def test_bernoulli_by_hand():
    """A logit of log 3 is a probability of 3/4."""
    logits = jnp.full((2, 1, 2, 1), math.log(3))
    x = jnp.array([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 1, 2, 1)
    expected = [math.log(3 / 4) + math.log(1 / 4), 2 * math.log(3 / 4)]
    np.testing.assert_allclose(likelihoods.bernoulli(logits, x), expected, rtol=1e-5)


def test_squared_error_by_hand():
    x = jnp.array([0.5, 1.0]).reshape(1, 1, 2, 1)
    found = likelihoods.squared_error(jnp.zeros((1, 1, 2, 1)), x)
    np.testing.assert_allclose(found, [-0.5 * (0.25 + 1)], rtol=1e-6)


def test_gaussian_equals_scipys():
    x = np.random.default_rng(1).uniform(size=(3, 2, 2, 3))
    some = numbers(x.shape, 2)
    mean, log_scale = np.split(some.astype(np.float64), 2, axis=-1)
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_scale - 2)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(likelihoods.gaussian(some, x), expected, rtol=1e-4)


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.31, 1.0, 7.0])
@pytest.mark.parametrize("log_scale", [-30.0, -3.0, 0.0, 3.0])
def test_probabilities_of_all_bytes_sum_to_one(mean, log_scale):
    some = jnp.tile(jnp.array([mean, log_scale]), (256, 1)).reshape(256, 1, 1, 2)
    x = (jnp.arange(256) / 255).reshape(256, 1, 1, 1)
    log_p = likelihoods.logistic(some, x)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_p)), 1, rtol=1e-4)


def test_logistic_equals_differences_of_scipys():
    levels = np.array([0, 1, 100, 254, 255])
    x = (levels / 255).reshape(1, 1, 5, 1)
    mean = np.array([0.02, 0.1, 0.4, 0.9, 0.95])
    log_scale = np.array([0.0, -1.0, -2.0, 0.5, 1.0])
    some = np.stack([mean, log_scale], axis=-1).reshape(1, 1, 5, 2)
    cdf = scipy.stats.logistic(mean, np.exp(log_scale - 2)).cdf
    high = np.where(levels == 255, 1, cdf((levels + 0.5) / 255))
    low = np.where(levels == 0, 0, cdf((levels - 0.5) / 255))
    expected = np.log(high - low).sum()
    found = likelihoods.logistic(jnp.asarray(some, jnp.float32), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_far_off(name):
    fn, count = ALL[name]
    x = jnp.array([0.0, 1.0, 0.5, 1.0]).reshape(1, 2, 2, 1)
    grads = jax.grad(lambda some: fn(some, x)[0])(jnp.full((1, 2, 2, count), -40.0))
    assert np.isfinite(grads).all()


@pytest.mark.parametrize("name", ALL)
def test_pixels_add_up_and_images_stay_apart(name):
    """Twice as many of the same pixels: twice the nats. Another image: nothing changes."""
    fn, count = ALL[name]
    x = np.random.default_rng(2).integers(0, 2, (2, 2, 3, 1)).astype(np.float32)
    some = numbers(x.shape, count)
    one = fn(some, x)
    assert one.shape == (2,)
    np.testing.assert_allclose(
        fn(np.tile(some, (1, 2, 1, 1)), np.tile(x, (1, 2, 1, 1))), 2 * one, rtol=1e-5
    )
    np.testing.assert_allclose(fn(some[:1], x[:1]), one[:1], rtol=1e-6)


def test_bits_per_dimension_of_even_bytes_are_eight():
    nats = 12 * math.log(256)
    assert likelihoods.bits_per_dimension(nats, (2, 2, 3)) == pytest.approx(8)
