"""Spectral normalization against numpy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets import spectral

RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"w": jnp.asarray(RNG.normal(size=(3, 3, 2, 5)), jnp.float32), "b": jnp.ones(5)},
    "linear": {"w": jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)},
    "norm": {"scale": jnp.ones(3)},
}


def iterated(count):
    vectors = spectral.start(PARAMS, jax.random.key(0))
    for _ in range(count):
        normalized, vectors = spectral.normalize(PARAMS, vectors)
    return normalized


def largest(w):
    return np.linalg.svd(np.asarray(w).reshape(-1, w.shape[-1]), compute_uv=False)[0]


def test_weights_come_to_have_a_largest_singular_value_of_one():
    normalized = iterated(100)
    for name in ("conv", "linear"):
        w = PARAMS[name]["w"]
        np.testing.assert_allclose(normalized[name]["w"], w / largest(w), rtol=1e-4)
    np.testing.assert_array_equal(normalized["conv"]["b"], PARAMS["conv"]["b"])
    np.testing.assert_array_equal(normalized["norm"]["scale"], PARAMS["norm"]["scale"])


def test_one_iteration_by_numpy():
    vectors = spectral.start(PARAMS, jax.random.key(3))
    normalized, moved = spectral.normalize(PARAMS, vectors)
    w = np.asarray(PARAMS["linear"]["w"])
    v = w @ np.asarray(vectors["linear"])
    v /= np.linalg.norm(v)
    u = w.T @ v
    u /= np.linalg.norm(u)
    np.testing.assert_allclose(moved["linear"], u, rtol=1e-5)
    np.testing.assert_allclose(normalized["linear"]["w"], w / (v @ w @ u), rtol=1e-5)


def test_the_gradient_sees_the_norm_but_not_the_vectors():
    """Of c' (w / s), s = v' w u: c / s - (c . w) v u' / s^2 (Miyato et al. 2018, equation 12)."""
    vectors = spectral.start(PARAMS, jax.random.key(3))
    c = RNG.normal(size=(4, 6))

    def total(w):
        params = PARAMS | {"linear": {"w": w}}
        return jnp.sum(spectral.normalize(params, vectors).params["linear"]["w"] * c)

    w = np.asarray(PARAMS["linear"]["w"], np.float64)
    v = w @ np.asarray(vectors["linear"])
    v /= np.linalg.norm(v)
    u = w.T @ v
    u /= np.linalg.norm(u)
    s = v @ w @ u
    expected = c / s - (c * w).sum() / s**2 * np.outer(v, u)
    found = jax.grad(total)(PARAMS["linear"]["w"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_scale_does_not_matter():
    vectors = spectral.start(PARAMS, jax.random.key(0))
    scaled = jax.tree.map(lambda p: 7 * p, PARAMS)
    one = spectral.normalize(PARAMS, vectors).params["conv"]["w"]
    other = spectral.normalize(scaled, vectors).params["conv"]["w"]
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert jnp.linalg.norm(vectors["conv"]) == pytest.approx(1, rel=1e-5)
