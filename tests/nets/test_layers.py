"""Batch normalization against its definition, over devices, and where Haiku's own loses digits."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits import collectives
from missing_bits.nets.layers import BatchNorm, Projector


def transformed(**options):
    return hk.transform_with_state(lambda x, is_training: BatchNorm(**options)(x, is_training))


def run(x, is_training=True, state=None, **options):
    norm = transformed(**options)
    params, fresh = norm.init(jax.random.key(0), x, True)
    return norm.apply(params, state or fresh, None, x, is_training)


def test_by_hand():
    """Of 1, 3, 5, 7: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5.

    The averages move a tenth of the way from 0 and 1.
    """
    y, state = run(jnp.array([[1.0], [3.0], [5.0], [7.0]]))
    np.testing.assert_allclose(y[:, 0], np.array([-3, -1, 1, 3]) / np.sqrt(5 + 1e-5), rtol=1e-6)
    assert state["batch_norm"]["mean"] == pytest.approx(0.4)
    assert state["batch_norm"]["variance"] == pytest.approx(0.9 + 0.5)


def test_outside_of_training_the_averages_stand_in_and_stay():
    state = {"batch_norm": {"mean": jnp.array([2.0]), "variance": jnp.array([4.0])}}
    y, after = run(jnp.array([[6.0], [2.0]]), False, state)
    np.testing.assert_allclose(y[:, 0], [4 / np.sqrt(4 + 1e-5), 0], rtol=1e-6)
    assert after == state


def test_scale_starts_where_it_is_told():
    y, _ = run(jnp.array([[1.0], [3.0]]), scale_init=0.0)
    np.testing.assert_array_equal(y, 0)
    assert not transformed(affine=False).init(jax.random.key(0), jnp.ones((2, 3)), True)[0]


@pytest.mark.parametrize("mean", [1e3, 1e4])
def test_a_large_mean_costs_no_digits(mean):
    """At 1e4, E[x^2] - E[x]^2 in float32 is off by about 1e8 / 2^24 = 6: six times the variance."""
    x = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32) + np.float32(mean)
    exact = (x.astype(np.float64) - x.mean(0, dtype=np.float64)) / np.sqrt(
        x.var(0, dtype=np.float64) + 1e-5
    )
    y, _ = run(jnp.asarray(x))
    np.testing.assert_allclose(y, exact, atol=2e-3)


def test_bfloat16_has_statistics_in_float32():
    x = (np.random.default_rng(0).normal(size=(4096, 2)) + 8).astype(jnp.bfloat16)
    y, state = run(jnp.asarray(x))
    assert y.dtype == jnp.bfloat16
    assert state["batch_norm"]["variance"].dtype == jnp.float32
    wide = x.astype(np.float64)
    np.testing.assert_allclose(state["batch_norm"]["mean"], 0.1 * wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["batch_norm"]["variance"], 0.9 + 0.1 * wide.var(0), rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([2, 4]), st.integers(1, 3), st.booleans())
def test_devices_share_their_statistics(devices, rows, images):
    """Values, averages and gradients of 1 device and of several, each with other data."""
    shape = (devices * rows, 2, 3, 5) if images else (devices * rows, 5)
    x = np.random.default_rng(rows).normal(size=shape).astype(np.float32) * 3 + np.arange(
        5, dtype=np.float32
    )
    weight = np.random.default_rng(9).normal(size=shape).astype(np.float32)
    norm = transformed()
    params, state = norm.init(jax.random.key(0), jnp.asarray(x), True)

    def loss(params, x, weight):
        y, moved = norm.apply(params, state, None, x, True)
        return collectives.total(jnp.sum(y * weight)), moved

    gradient = jax.value_and_grad(loss, argnums=0, has_aux=True)
    (value, moved), grads = gradient(params, x, weight)
    split = [a.reshape(devices, rows, *shape[1:]) for a in (x, weight)]

    def one(params, x, weight):
        found, grads = gradient(params, x, weight)
        return found, collectives.mean(grads)

    shared = jax.pmap(one, collectives.AXIS, in_axes=(None, 0, 0), devices=jax.devices()[:devices])
    (values, moveds), gradss = shared(params, *split)
    for d in range(devices):
        np.testing.assert_allclose(values[d], value, rtol=1e-4, atol=1e-4)
        jax.tree.map(
            lambda a, b, d=d: np.testing.assert_allclose(a[d], b, rtol=1e-5, atol=1e-6),
            moveds,
            moved,
        )
        jax.tree.map(
            lambda a, b, d=d: np.testing.assert_allclose(a[d], b, rtol=1e-4, atol=1e-4),
            gradss,
            grads,
        )


def test_the_projector_has_no_biases_and_ends_linear():
    net = hk.transform_with_state(lambda x, is_training: Projector((6, 7))(x, is_training))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)
    params, state = net.init(jax.random.key(0), x, True)
    names = {
        f"{module.split('/')[-1]}.{leaf}" for module, leaves in params.items() for leaf in leaves
    }
    assert names == {"linear.w", "batch_norm.scale", "batch_norm.offset", "linear_1.w"}
    z, _ = net.apply(params, state, None, x, True)
    assert z.shape == (8, 7)
    assert bool((z < 0).any())
