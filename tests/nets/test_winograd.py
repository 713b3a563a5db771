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


def test_bfloat16_keeps_its_type_in_all_three_products():
    x, w, dy = arrays(X, W, jnp.bfloat16)
    given = [a.astype(jnp.float32) for a in (x, w, dy)]
    y, pullback = jax.vjp(conv.conv2d, x, w)
    wanted, pullback_wanted = jax.vjp(stock, *given[:2])
    ours = (y, *pullback(dy))
    for mine, theirs in zip(ours, (wanted, *pullback_wanted(given[2])), strict=True):
        assert mine.dtype == jnp.bfloat16
        assert off(mine, theirs) < 1e-2  # rounded once, at the end


def test_rows_of_kernels_and_images_are_apart():
    x, w, _ = arrays(X, W)
    both = jax.vmap(lambda x, w: conv.conv2d(x, w))(jnp.stack([x, 2 * x]), jnp.stack([w, w + 1]))
    np.testing.assert_allclose(both[0], conv.conv2d(x, w), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both[1], conv.conv2d(2 * x, w + 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "gains"),
    [
        (X, W, True),
        ((8, 16, 16, 64), W, True),
        ((7, 16, 16, 64), W, False),  # few images
        ((1, 128, 128, 64), W, True),
        ((1, 160, 160, 64), W, False),  # large ones
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
    for name in ("convolve", "to_x", "to_w"):
        monkeypatch.setattr(winograd, name, None)
    x, w, _ = arrays(X, W)
    gradient = jax.grad(lambda *xw: jnp.sum(conv.conv2d(*xw, **settings)), argnums=(0, 1))(x, w)
    assert all(jnp.isfinite(leaf).all() and leaf.any() for leaf in gradient)
