"""Discriminators: shapes, classes, images apart from each other unless batch norm ties them."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets.discriminator import Discriminator


def made(shape=(9, 7, 2), **settings):
    network = hk.transform_with_state(lambda x, labels: Discriminator(**settings)(x, labels))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)
    labels = jnp.array([0, 1, 2, 2])
    params, state = network.init(jax.random.key(0), x, labels)
    return lambda x, labels: network.apply(params, state, None, x, labels)[0], x, labels


@pytest.mark.parametrize(
    "settings",
    [{"width": 4}, {"width": 2, "network": "mlp"}, {"width": 4, "classes": 3}],
)
def test_a_logit_is_of_its_image_alone(settings):
    score, x, labels = made(**settings)
    logits = score(x, labels)
    assert logits.shape == (4,)
    np.testing.assert_allclose(logits[1:3], score(x[1:3], labels[1:3]), atol=1e-5)
    assert np.ptp(logits) > 0.01


def test_batch_norm_ties_images():
    score, x, labels = made(width=4, batch_norm=True)
    assert np.abs(score(x, labels)[1:3] - score(x[1:3], labels[1:3])).max() > 1e-3


def test_classes_matter_where_there_are_any():
    with_classes, x, labels = made(width=4, classes=3)
    assert np.abs(with_classes(x, labels) - with_classes(x, labels * 0)).max() > 1e-3
    without, x, labels = made(width=4)
    np.testing.assert_array_equal(without(x, labels), without(x, labels * 0))


@pytest.mark.parametrize(("side", "features"), [(16, 4 * 4 * 8), (28, 7 * 7 * 8), (64, 8 * 8 * 16)])
def test_the_last_map_is_small(side, features):
    """Of two halvings 2 x 2 x width channels, of three twice as many."""
    network = hk.transform(lambda x: Discriminator(width=2)(x, None))
    x = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    assert params["discriminator/logit"]["w"].shape == (features, 1)


def test_points_are_images_of_one_pixel():
    score, x, labels = made((1, 1, 2), network="mlp", width=2)
    assert score(x, labels).shape == (4,)
