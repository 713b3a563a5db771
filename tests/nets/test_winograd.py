"""Fewer products give the same convolutions, and are taken only where they are meant to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from missing_bits.nets import conv, winograd

X = (9, 16, 16, 64)  # a chunk is 8 images
W = (3, 3, 64, 65)


def stock(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arrays(x_shape, w_shape, dtype=jnp.float32):
    draw = np.random.default_rng(0).normal
    shapes = (x_shape, w_shape, (*x_shape[:3], w_shape[3]))
    return [jnp.asarray(draw(size=shape), dtype) for shape in shapes]


def off(ours, theirs):
    """The largest difference, as a share of the largest value."""
    ours, theirs = (np.asarray(a, np.float64) for a in (ours, theirs))
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("x_shape", [X, (1, 48, 44, 64), (33, 8, 8, 64)])
def test_all_three_products_equal_the_sums(x_shape):
    """Also where the last chunk is not full, or an image is larger than a chunk."""
    x, w, dy = arrays(x_shape, W)
    y, pullback = jax.vjp(stock, x, w)
    dx, dw = pullback(dy)
    assert off(winograd.convolve(x, w), y) < 5e-5
    assert off(winograd.to_x(dy, w), dx) < 5e-5
    assert off(winograd.to_w(x, dy), dw) < 5e-5


def test_a_kernel_that_copies_gives_the_image_back():
    x = arrays(X, W)[0]
    w = jnp.zeros((3, 3, 64, 64)).at[1, 1].set(jnp.eye(64))
    np.testing.assert_allclose(winograd.convolve(x, w), x, atol=1e-4)


def test_a_convolution_takes_them_with_all_its_derivatives(monkeypatch):
    calls = []
    for name in ("convolve", "to_x", "to_w"):
        real = getattr(winograd, name)
        monkeypatch.setattr(
            winograd, name, lambda *a, name=name, real=real: calls.append(name) or real(*a)
        )

    def penalty(convolve, x, w):
        return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.square(convolve(x, w))))(x) ** 2)

    x, w, _ = arrays(X, W)
    ours, theirs = (
        jax.grad(lambda x, w, f=f: penalty(f, x, w), argnums=(0, 1))(x, w)
        for f in (lambda x, w: conv.conv2d(x, w, 1, ((1, 1), (1, 1))), stock)
    )
    assert off(ours[0], theirs[0]) < 2e-4
    assert off(ours[1], theirs[1]) < 2e-4
    assert set(calls) == {"convolve", "to_x", "to_w"}


def test_bfloat16_is_summed_in_float32():
    x, w, _ = arrays(X, W, jnp.bfloat16)
    y = conv.conv2d(x, w)
    assert y.dtype == jnp.bfloat16
    assert off(y, stock(x.astype(jnp.float32), w.astype(jnp.float32))) < 1e-2


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "gains"),
    [
        (X, W, True),
        ((8, 16, 16, 64), W, True),
        ((7, 16, 16, 64), W, False),  # few images
        ((512, 4, 4, 64), W, False),  # small ones
        ((9, 14, 16, 64), W, False),
        ((9, 16, 18, 64), W, False),
        ((9, 16, 16, 24), (3, 3, 24, 24), True),
        ((9, 16, 16, 16), (3, 3, 16, 64), False),
        (X, (3, 3, 64, 16), False),
        (X, (5, 5, 64, 64), False),
        (X, (1, 1, 64, 64), False),
    ],
)
def test_they_are_taken_where_they_gain(x_shape, w_shape, gains):
    assert winograd.gains(x_shape, w_shape) is gains


@pytest.mark.parametrize(
    "settings", [{"stride": 2}, {"padding": "VALID"}, {"padding": ((1, 1), (0, 2))}]
)
def test_other_windows_are_left_alone(settings, monkeypatch):
    monkeypatch.setattr(winograd, "convolve", None)
    x, w, _ = arrays(X, W)
    assert jnp.isfinite(conv.conv2d(x, w, **settings)).all()
