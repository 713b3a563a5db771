"""The three ways of the affine recurrence against a loop in float64, and their gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets.sequences import affine

WAYS = ("serial", "associative", "chunked", "auto")
LENGTHS = (1, 5, 64, 131)  # of which a chunk of 64 steps divides one


@functools.cache
def drawn(length, shape=(3,)):
    """A recurrence of two rows: a, b, the start, and resets."""
    rng = np.random.default_rng(length)
    a = rng.uniform(0.2, 1.0, (2, length, *shape)).astype(np.float32)
    b = rng.normal(size=a.shape).astype(np.float32)
    start = rng.normal(size=(2, *shape)).astype(np.float32)
    return a, b, start, rng.random((2, length)) < 0.05


def looped(a, b, start, reset):
    """One step after the other, in float64."""
    x = start.astype(np.float64)
    found = []
    for t in range(a.shape[1]):
        x = np.where(reset[:, t].reshape(-1, *(1,) * (x.ndim - 1)), 0, x)
        x = a[:, t] * x + b[:, t]
        found.append(x)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_loop(way, length):
    a, b, start, reset = drawn(length)
    expected = looped(a, b, start, reset)
    found = jax.jit(functools.partial(affine.scan, way=way))(a, b, start, reset)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_states_of_several_axes_start_at_zeros():
    a, b, start, _ = drawn(7, (3, 2))
    expected = looped(a, b, 0 * start, np.zeros((2, 7), bool))
    for way in WAYS:
        np.testing.assert_allclose(affine.scan(a, b, way=way), expected, atol=1e-5)


def test_by_hand():
    """x = 2, then 3 * 2 + 1 = 7; after the reset 5, then 0.5 * 5 + 0 = 2.5."""
    a = jnp.array([[9.0, 3, 100, 0.5]])
    b = jnp.array([[2.0, 1, 5, 0]])
    reset = jnp.array([[False, False, True, False]])
    for way in WAYS:
        assert affine.scan(a, b, None, reset, way).tolist() == [[2, 7, 5, 2.5]]


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_a_plain_loop(way):
    a, b, start, reset = drawn(131)
    weights = np.random.default_rng(1).normal(size=a.shape).astype(np.float32)

    def plain(a, b, start):
        def body(x, inputs):
            a_t, b_t, reset_t = inputs
            x = a_t * jnp.where(reset_t[:, None], 0, x) + b_t
            return x, x

        steps = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (a, b, reset))
        return jnp.moveaxis(jax.lax.scan(body, start, steps)[1], 0, 1)

    def gradients(scan):
        def loss(a, b, start):
            return jnp.sum(weights * scan(a, b, start) ** 2)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(a, b, start)

    found = gradients(lambda a, b, start: affine.scan(a, b, start, reset, way))
    for mine, other in zip(found, gradients(plain), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5 * np.abs(other).max(), rtol=0)


def test_the_state_is_float32_whatever_comes_in():
    """In bfloat16, 1 is lost in a sum of 256."""
    ones = jnp.ones((1, 300, 1), jnp.bfloat16)
    for way in WAYS:
        x = affine.scan(ones, ones, way=way)
        assert x.dtype == jnp.float32
        assert float(x[0, -1, 0]) == 300


def test_training_keeps_less_than_the_tree():
    """At 16,384 steps, temporaries of the gradient against those of a tree that JAX differentiates."""
    shape = jax.ShapeDtypeStruct((1, 16_384, 1), jnp.float32)

    def tree(a, b):
        def after(first, second):
            return (second[0] * first[0], second[0] * first[1] + second[1])

        return jax.lax.associative_scan(after, (a, b), axis=1)[1]

    def temporaries(scan):
        def loss(a, b, weights):
            return jnp.sum(weights * scan(a, b))

        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shape, shape, shape).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(affine.scan) <= 0.3 * temporaries(tree)
