"""Generators: shapes of all sizes, classes that count, doubling by hand, statistics of a batch."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets import generator
from missing_bits.nets.conv import conv2d
from missing_bits.nets.generator import Generator


def make(*arguments, **settings):
    return hk.transform_with_state(
        lambda z, labels, train: Generator(*arguments, **settings)(z, labels, train)
    )


@pytest.mark.parametrize("network", ["conv", "mlp"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 6), (13, 10, 3), (1, 1, 2)])
def test_images_of_any_size(network, shape):
    net = make(shape, network, width=4)
    z = jnp.ones((3, 5))
    params, state = jax.eval_shape(lambda key: net.init(key, z, None, True), jax.random.key(0))
    made, _ = jax.eval_shape(lambda p, s: net.apply(p, s, None, z, None, True), params, state)
    assert made.shape == (3, *shape)
    assert not state


def test_maps_double_up_to_the_image():
    assert generator.sides((28, 28)) == ([7, 14, 28], [7, 14, 28])
    assert generator.sides((13, 10)) == ([7, 13], [5, 10])
    assert generator.sides((8, 1)) == ([4, 8], [1, 1])


def test_doubling_and_convolving_in_one_equals_both_apart():
    """With its gradients, in sizes that are not square."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    w = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))

    def apart(x, w):
        return conv2d(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), w)

    def with_gradients(fn):
        return jax.value_and_grad(lambda *inputs: jnp.sum(jnp.sin(fn(*inputs))), (0, 1))(x, w)

    np.testing.assert_allclose(generator.doubling_conv2d(x, w), apart(x, w), atol=1e-4)
    both = with_gradients(generator.doubling_conv2d), with_gradients(apart)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3), *both)


def test_a_class_changes_the_image_and_latents_do():
    net = make((8, 8, 1), width=4, classes=3)
    z = jax.random.normal(jax.random.key(1), (2, 5))
    params, state = net.init(jax.random.key(0), z, jnp.array([0, 0]), True)

    def images(z, labels):
        return np.asarray(net.apply(params, state, None, z, jnp.array(labels), False)[0])

    one = images(z, [0, 1])
    assert np.abs(one - images(z, [0, 2]))[0].max() == 0
    assert np.abs(one - images(z, [0, 2]))[1].max() > 1e-3
    assert np.abs(one - images(-z, [0, 1])).max() > 1e-3


def test_batch_norm_gathers_statistics_in_training_alone():
    net = make((8, 8, 1), width=4, norm="batch")
    z = jax.random.normal(jax.random.key(1), (6, 5))
    params, state = net.init(jax.random.key(0), z, None, True)
    _, moved = net.apply(params, state, None, z, None, True)
    whole, kept = net.apply(params, moved, None, z, None, False)
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, moved))
    assert not jax.tree.all(jax.tree.map(np.array_equal, state, moved))
    alone, _ = net.apply(params, moved, None, z[:1], None, False)
    np.testing.assert_allclose(alone[0], whole[0], atol=1e-5)
