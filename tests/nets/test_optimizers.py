"""The optimisers of pretraining against steps computed by hand, and their exclusions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from missing_bits.errors import UserError
from missing_bits.nets import optimizers
from missing_bits.nets.optimizers import Optimizer

W, V = np.array([[3.0, 4.0]], np.float32), np.array([2.0], np.float32)  # a weight of length 5, and a bias
G_W, G_V = np.array([[0.0, 2.0]], np.float32), np.array([0.5], np.float32)


def one_step(config, updates=10, grads=(G_W, G_V)):
    params = {"w": jnp.asarray(W), "v": jnp.asarray(V)}
    optimizer = optimizers.make(config, updates)
    moves, _ = optimizer.update({"w": grads[0], "v": grads[1]}, optimizer.init(params), params)
    return moves


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    """Of 100 updates, 10 warm up: 0, 0.1, ... 1 at update 10; half way down at 55 is (1 + 0.2) / 2; 0.2 at the end."""
    rate = optimizers.schedule(Optimizer(learning_rate=1.0, warmup=0.1, end=0.2), 100)
    np.testing.assert_allclose([rate(i) for i in (0, 1, 10, 55, 100)], [0, 0.1, 1, 0.6, 0.2], atol=1e-6)
    flat_start = optimizers.schedule(Optimizer(learning_rate=1.0, warmup=0.0), 100)
    assert flat_start(0) == 1


def test_lars_by_hand():
    """The weight: g + 0.1 w = [0.3, 2.4], length 2.41868; times 0.02 * 5 / 2.41868, times the rate 0.5.

    The bias has neither decay nor adaptation: 0.5 * 0.25 * g.
    """
    config = Optimizer("lars", learning_rate=0.5, warmup=0.0, weight_decay=0.1, trust=0.02, vector_scale=0.25)
    moves = one_step(config)
    length = np.hypot(0.3, 2.4)
    np.testing.assert_allclose(moves["w"], -0.5 * 0.02 * 5 / length * np.array([[0.3, 2.4]]), rtol=1e-5)
    np.testing.assert_allclose(moves["v"], [-0.5 * 0.25 * 0.5], rtol=1e-5)


def test_lars_momentum_gathers_what_is_adapted():
    """With a constant gradient the second step is 1 + momentum times the first."""
    config = Optimizer("lars", learning_rate=1.0, warmup=0.0, end=1.0, weight_decay=0.0, trust=1.0, momentum=0.8)
    params = {"w": jnp.asarray(W), "v": jnp.asarray(V)}
    optimizer = optimizers.make(config, 10)
    grads, state = {"w": G_W, "v": G_V}, optimizer.init(params)
    first, state = optimizer.update(grads, state, params)
    second, _ = optimizer.update(grads, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 1.8 * a, rtol=1e-5), first, second)


def test_adamw_by_hand():
    """The first step of Adam is the sign of the gradient; decay adds 0.1 w to weights alone."""
    moves = one_step(Optimizer("adamw", learning_rate=0.5, warmup=0.0, weight_decay=0.1))
    np.testing.assert_allclose(moves["w"], -0.5 * np.array([[0.3, 1.4]]), rtol=1e-4)
    np.testing.assert_allclose(moves["v"], [-0.5], rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_decay_and_adaptation_leave_vectors_alone(name):
    """Whatever decay, trust and the length of a bias are, the bias moves the same."""
    base = Optimizer(name, learning_rate=0.1, warmup=0.0)
    other = dataclasses.replace(base, weight_decay=0.5, trust=0.5)
    one, two = one_step(base), one_step(other)
    np.testing.assert_array_equal(one["v"], two["v"])
    assert not np.allclose(one["w"], two["w"])


def test_a_quadratic_is_solved():
    config = Optimizer("adamw", learning_rate=0.1, weight_decay=0.0)
    optimizer = optimizers.make(config, 300)
    params = {"w": jnp.asarray(W), "v": jnp.asarray(V)}
    state = optimizer.init(params)
    for _ in range(300):
        grads = jax.tree.map(lambda p: 2 * (p - 1), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda p: np.testing.assert_allclose(p, 1, atol=0.01), params)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 0.0}, "--optimizer.learning-rate is 0.0"),
        ({"warmup": 1.0}, "--optimizer.warmup"),
        ({"weight_decay": -1.0}, "--optimizer.weight-decay"),
        ({"momentum": 1.0}, "--optimizer.momentum"),
        ({"trust": -0.1}, "--optimizer.trust"),
        ({"end": 2.0}, "--optimizer.end"),
    ],
)
def test_settings_that_cannot_train_are_refused_by_name(changed, named):
    with pytest.raises(UserError, match=named):
        optimizers.make(Optimizer(**changed), 10)
